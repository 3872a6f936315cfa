"""The commands: one thin file per verb, between the words of the command line and the engine."""
