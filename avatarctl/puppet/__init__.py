"""Takes a seed, gives a small world of drawn faces and made voices, and the networks that were trained on it."""
