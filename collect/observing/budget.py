"""How much of a pass is alive at one time; decided by the plan, so that a resumed run sums in the same order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Sizes of the pieces in which a batch is read and reduced."""

    chunk: int
    """Columns of a prompt that are read in one pass."""
    logit_rows: int
    """Rows of logits that are computed at once."""
    block_bytes: int
    """Bytes of logits or attention scores that are reduced at once."""
