"""What a detector may read of an answer, block by block, and where each comes from. Nothing is fitted here."""
