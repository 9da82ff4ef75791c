"""What a detector may read of an answer: blocks of columns from stored tables, or the reason why there are none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from ....lake.errors import UsageError, did_you_mean

NOT_COMPUTABLE = {
    "p-true": "needs the model's own judgement of its answer, which no table holds",
    "semantic-entropy": "needs a model of entailment between answers, which no table holds",
    "lookback-ratio": "needs the attention mass on the prompt, which no table holds",
}
"""Signals of the literature that stored tables cannot give, and why."""
BASE = "telemetry"
"""What other signals are measured against."""
NAMES = (
    "majority", "text", "text-embedding", "prompt", BASE, "consistency", "eigenscore", "probe", "saplma", "transitions",
    "health", "trajectory", "lens", "directions", "features", "reconstruction", "tracks", "tracks-churn",
    "tracks-source",
)  # fmt: skip
ALONE = (
    "sum_logprob", "mean_logprob", "mean_entropy", "max_entropy", "mean_surprisal", "max_surprisal", "min_margin",
)  # fmt: skip
"""Columns of the telemetry that are signals of their own too, as `telemetry:NAME`."""


@dataclass(frozen=True)
class Block:
    """Columns of one place or kind, one row per sequence; NaN where a value is unknown."""

    name: str
    columns: tuple[str, ...]
    values: Float[np.ndarray, "sequence column"]
    lacking: float | None = None
    """What a column that a detector wants and the block lacks has; None: it cannot do without."""

    def beside(self, other: "Block") -> "Block":
        """The columns of both."""
        return Block(
            self.name,
            (*self.columns, *other.columns),
            np.concatenate([self.values, other.values], axis=1),
            self.lacking,
        )


@dataclass(frozen=True)
class Signal:
    """What is known of every answer: one block, or several of which the training folds choose one."""

    name: str
    blocks: tuple[Block, ...] = ()
    models: tuple[str, ...] = ()
    """Kinds of detector that belong to it; those that were asked for if empty."""
    reason: str | None = None
    """Why it is not there."""
    control: str | None = None
    """What makes it a control, if it is one."""
    notes: Sequence[str] = field(default=())

    @property
    def n_lacking(self) -> int:
        """Sequences without any value."""
        if not self.blocks:
            return 0
        return int((~np.isfinite(self.blocks[0].values).any(axis=1)).sum()) if self.blocks[0].columns else 0

    def dropped(self) -> list[str]:
        """Columns that are null or the same in all sequences."""
        return [name for block in self.blocks for name in _constant(block)]

    def with_base(self, base: "Signal") -> "Signal":
        """Every block with the columns of `base` beside it."""
        blocks = tuple(block.beside(base.blocks[0]) for block in self.blocks)
        return Signal(f"{base.name}+{self.name}", blocks, self.models, control=self.control)


def _constant(block: Block) -> list[str]:
    names = []
    for place, name in enumerate(block.columns):
        known = block.values[:, place][np.isfinite(block.values[:, place])]
        if not len(known) or known.min() == known.max():
            names.append(name)
    return names


def absent(name: str, reason: object) -> Signal:
    """A signal that is not there."""
    return Signal(name, reason=str(reason))


def one_block(
    name: str, columns: Mapping[str, np.ndarray], models: tuple[str, ...] = (), lacking: float | None = None
) -> Signal:
    """A signal of one block."""
    values = np.stack([np.asarray(one, np.float64) for one in columns.values()], axis=1)
    return Signal(name, (Block(name, tuple(columns), values, lacking),), models)


def chosen_names(text: str) -> list[str]:
    """Names of the signals in a list; UsageError for unknown ones and for those that cannot be computed."""
    if text == "all":
        return list(NAMES)
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name in NOT_COMPUTABLE:
            raise UsageError(f"--signals {name}: {NOT_COMPUTABLE[name]}. Possible: all, {', '.join(NAMES)}.")
        if name not in NAMES:
            raise UsageError(f"There is no --signals {name!r}.{did_you_mean(name, NAMES, show=len(NAMES))}")
    if not names:
        raise UsageError(f"--signals names nothing. Possible: all, {', '.join(NAMES)}.")
    return names
