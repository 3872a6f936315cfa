"""Takes curves and pictures of a video, gives how well lips follow the voice, a face is kept, and windows join."""
