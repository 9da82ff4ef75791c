"""`lake collect` and `lake demo`: options, progress, the lines around a run."""
