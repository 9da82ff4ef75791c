"""Token by token: a batch of sequences, choosing the next token, when a sequence ends, the same tokens again."""
