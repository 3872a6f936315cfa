"""Takes one picture and a voice, gives a video of that person speaking or singing."""

__version__ = "0.1.0"
