"""Stored vectors in shuffled order: row groups drawn, a window of rows permuted, batches for training."""
