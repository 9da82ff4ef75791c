"""The verbs of the command line: each parses, calls one library function and prints. Typer lives here only."""
