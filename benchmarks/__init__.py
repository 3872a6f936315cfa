"""Measurements; run the files from the project's root."""
