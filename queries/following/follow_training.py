"""A training of autoencoders watched while it runs: one line per autoencoder and commit."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ..queried_lake import QueriedLake

COMMITTED = """
SELECT
    sae_id, step, n_tokens, fvu, validation_fvu, l0, dead,
    avg(tokens_per_s) OVER (PARTITION BY sae_id ORDER BY step ROWS 9 PRECEDING) AS tokens_per_s,
    avg(wait_share) OVER (PARTITION BY sae_id ORDER BY step ROWS 9 PRECEDING) AS wait_share
FROM sae_training
WHERE run_id = $run
QUALIFY validation_fvu IS NOT NULL AND step > $after
ORDER BY step, sae_id
"""


@dataclass(frozen=True)
class TrainingNews:
    """Where one autoencoder was at a commit."""

    sae_id: str
    step: int
    n_tokens: int
    fvu: float
    validation_fvu: float
    l0: float
    dead: int
    tokens_per_s: float
    wait_share: float

    def text(self) -> str:
        """One line for a terminal."""
        return (
            f"step {self.step:,}: {self.sae_id} FVU {self.fvu:.4f}, on validation rows {self.validation_fvu:.4f}, "
            f"L0 {self.l0:.1f}, {self.dead:,} dead; {self.tokens_per_s:,.0f} tokens/s, waiting {self.wait_share:.1%}"
        )

    def as_dict(self) -> dict[str, object]:
        """The news as plain values for JSON."""
        return asdict(self)


def follow_training(lake: QueriedLake, run_id: str, *, interval_s: float = 1.0) -> Iterator[TrainingNews]:
    """Yield the news of every commit, those committed already first, until the training is not running any more."""
    after = 0
    while True:
        # Asked before the rows are read: what is committed in between is seen in this round.
        running = lake.run_status(run_id) == "running"
        for row in lake.sql(COMMITTED, {"run": run_id, "after": after}).iter_rows(named=True):
            yield TrainingNews(**row)
            after = max(after, row["step"])
        if not running:
            return
        time.sleep(interval_s)
