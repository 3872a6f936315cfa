"""Make a video of a person speaking or singing from one picture and a voice recording."""

from avatarctl import threads as _threads

__version__ = "0.1.0"

_threads.choose()  # before anything can import torch
