"""Takes the project's code, gives measurements; run the files from the project's root."""
