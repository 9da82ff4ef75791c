"""Completions that came through an interface: responses with log-probabilities, and logs of Inspect AI."""
