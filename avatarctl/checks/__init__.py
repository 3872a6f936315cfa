"""Check what this machine has for rendering; torch is examined in a separate process."""
