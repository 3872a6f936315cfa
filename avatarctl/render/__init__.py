"""Takes files and settings, gives a video: durable, resumable, of any length."""
