"""Two groups of sequences compared: correlation, permutation tests, corrected for many tests."""
