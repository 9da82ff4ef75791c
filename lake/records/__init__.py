"""What the lake knows of a run beside its commits: run.json, and the tombstone of one that was removed."""
