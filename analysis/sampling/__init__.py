"""The geometry of sampling: pooled states of answers, their spread, distances, sensitivity and clusters."""
