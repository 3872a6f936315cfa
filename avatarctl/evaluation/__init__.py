"""Measure a video: how lips follow the voice, whether the face stays the same, whether windows join smoothly."""
