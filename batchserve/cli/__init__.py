"""The command line: puts the parts together and prints what a person should know."""
