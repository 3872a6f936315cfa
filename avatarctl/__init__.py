"""avatarctl: make a video of a person speaking or singing from one picture and a recording."""

__version__ = "0.1.0"
