"""Names of the files of a report; nothing else, since the command line asks for them before anything heavy is loaded."""

PAGE, NUMBERS = "report.html", "report.json"
