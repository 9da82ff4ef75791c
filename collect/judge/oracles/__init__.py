"""A service writes reference solutions to problems."""
