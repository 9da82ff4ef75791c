"""`sampling_variance`: how far the pooled states of a problem's samples spread, by layer and checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np
import polars as pl

from ...lake import Lake
from ...lake.errors import ConfigError
from ...lake.snapshot import Snapshot
from ...lake.values import Json, Row
from ..attributes import groups
from ..intervals import mean_over_prompts
from ..option import option
from ..question import Evidence, Reads, Rows
from ..row_columns import columns_of
from .pooled_question import PooledQuestion, own_answers
from .pooling import Pooled, Pooling, pool
from .spread import Spread, spreads

VERSION = 1


@dataclass(frozen=True)
class Variance(PooledQuestion):
    """How far the pooled states of a problem's samples spread, by layer and checkpoint, with intervals."""

    name: ClassVar[str] = "variance"
    checkpoints: tuple[int, ...] | None = option(
        None, "Only answer tokens before this step; may repeat. Without any: all.", flag="--checkpoint"
    )
    within: str | None = option(
        None, "Split the variance into between and within groups by this column of `sequences` or key of metadata."
    )
    short: Literal["exclude", "include"] = option(
        "exclude", "Answers that end before a checkpoint: leave them out of it, or pool what they have."
    )

    def resolve(self, snapshot: Snapshot) -> Self:
        """The layers by number, the stride, and the checkpoints in their order."""
        marks = tuple(sorted(set(self.checkpoints))) if self.checkpoints else None
        return replace(super().resolve(snapshot), checkpoints=marks)

    def _checkpoints(self) -> Sequence[int]:
        return self.checkpoints or ()

    def reads(self) -> Reads:
        """Sequences and states."""
        return [("sequences", {}), *self.states_read()]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """All options, and the version of the numbers."""
        return dict(vars(self)) | {"checkpoints": list(self.checkpoints or ()) or None, "version": VERSION}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """A row per problem, layer and checkpoint, and one over problems."""
        snapshot, run_id = runs[0].snapshot, runs[0].run_id
        sequences = own_answers(snapshot)
        check_samples(sequences, run_id)
        poolings = [self.pooling(mark) for mark in self.checkpoints or (None,)]
        codes = None
        if self.within is not None:
            codes = groups(sequences, self.within, "--within").rank("dense").fill_null(0).to_numpy().astype(np.int64)
        rows: list[Row] = []
        samples = _samples(sequences)
        for layer in self.layers:
            for pooling, pooled in zip(poolings, pool(snapshot, self.site, layer, sequences, poolings), strict=True):
                about = {"site": self.site, "layer": layer, **asdict(pooling), "within": self.within}
                rows += self._of_place(sequences, samples, pooling, pooled, codes, about)
        short = int((sequences["n_answer"] < (max(self.checkpoints) if self.checkpoints else 0)).sum())
        stride = poolings[0].stride
        notices = [f"Pooled every {stride} answer tokens." if stride > 1 else "Pooled every answer token."]
        if short:
            done = "left out there" if self.short == "exclude" else "pooled over what they have"
            notices.append(f"{short:,} of {sequences.height:,} answers end before the last checkpoint: {done}.")
        return Rows({"sampling_variance": columns_of(rows)}, sequences.height, notices)

    def _of_place(
        self,
        sequences: pl.DataFrame,
        samples: "Samples",
        pooling: Pooling,
        pooled: Pooled,
        codes: np.ndarray | None,
        about: Json,
    ) -> list[Row]:
        n_answer = sequences["n_answer"].to_numpy()
        reached = n_answer >= (pooling.checkpoint or 1)
        kept = np.isfinite(pooled.states).all(axis=1) & (reached | (self.short == "include"))
        found: list[Row] = []
        for temperature, by_prompt in samples.items():
            own = {prompt: rows[kept[rows]] for prompt, rows in by_prompt.items()}
            spread_of = _spreads(own, pooled.states, codes, greedy=temperature == 0)
            per_prompt = []
            for prompt, rows in by_prompt.items():
                counts = {"n_samples": len(rows), "n_reached": int(reached[rows].sum()), "n_pooled": len(own[prompt])}
                values = {name: value for name, value in vars(spread_of[prompt]).items() if name != "n"}
                per_prompt.append({"prompt_id": prompt, "temperature": temperature, **about, **counts, **values})
            found += [*per_prompt, _over_prompts(per_prompt)]
        return found


Samples = dict[float | None, dict[str | None, np.ndarray]]
"""Rows of the sequences by temperature, then by problem."""


def _spreads(
    rows: Mapping[str | None, np.ndarray], states: np.ndarray, codes: np.ndarray | None, *, greedy: bool
) -> dict[str | None, Spread]:
    """The spread of each problem's rows; problems with as many rows at once."""
    by_size: dict[int, list[str | None]] = {}
    for prompt, own in rows.items():
        by_size.setdefault(len(own), []).append(prompt)
    spread_of: dict[str | None, Spread] = {}
    for prompts in by_size.values():
        some = np.stack([rows[prompt] for prompt in prompts])
        spread_of |= zip(
            prompts, spreads(states[some], None if codes is None else codes[some], greedy=greedy), strict=True
        )
    return spread_of


def _samples(sequences: pl.DataFrame) -> Samples:
    keys = ["temperature", "prompt_id"]
    rows = sequences.with_row_index("row").group_by(keys, maintain_order=True).agg("row")
    samples: Samples = {}
    for temperature, prompt, own in rows.iter_rows():
        samples.setdefault(temperature, {})[prompt] = np.array(own)
    return samples


def check_samples(sequences: pl.DataFrame, run_id: str) -> None:
    """ConfigError where no problem has two samples, unless all are greedy."""
    if not sequences.height:
        raise ConfigError(f"Run {run_id} has no sequences that the model wrote by itself: there is no sampling to see.")
    counts = sequences.filter(pl.col("temperature").is_null() | (pl.col("temperature") > 0))["prompt_id"].value_counts()
    if counts.height and int(counts["count"].to_numpy().max()) < 2:
        raise ConfigError(
            f"Run {run_id} has one sample of each prompt: one vector has no variance. "
            "Collect several with `lake collect --samples 8`."
        )


def _over_prompts(rows: Sequence[Row]) -> Row:
    """The mean of each value over problems, with intervals."""
    means = {
        name: mean_over_prompts(np.array([row[name] for row in rows]))
        for name in ("tr_cov", "tr_cov_between", "relative_variance", "mean_pairwise_cosine")
    }
    total, cosine = means["tr_cov"], means["mean_pairwise_cosine"]
    counts = {name: sum(row[name] for row in rows) for name in ("n_samples", "n_reached", "n_pooled")}
    return {
        **rows[0], "prompt_id": None, **counts, "n_prompts": total.n_prompts,
        **{name: one.mean for name, one in means.items()}, "se_tr_cov": np.nan,
        "ci_low": total.ci_low, "ci_high": total.ci_high,
        "cosine_ci_low": cosine.ci_low, "cosine_ci_high": cosine.ci_high, "reason": total.reason,
    }  # fmt: skip
