"""Takes the words of the command line, gives settings to the engine and its results to the console: one file per verb."""
