"""Second-order effects neuron by neuron: size, spread, and how they differ between right and wrong answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from jaxtyping import Bool, Float

from ...lake import Lake
from ...lake.reading.batches import read_commits
from ...lake.reading.frames import scan_files
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from ...lake.values import Json
from ..comparing.permutation import holm
from ..option import option
from ..question import Evidence, Question, Reads, Rows
from .stored import whole_analysis

N_DRAWS, LEAST_OF_A_CLASS = 2000, 10
FAR = 2.0
"""Root mean squares of a layer beyond which one effect counts as significant."""
BLOCK = 256
"""Neurons that are looked at together."""
SCORES, NAME, COMMAND = "second_order_scores", "second-order", "lake experiment second-order"


@dataclass(frozen=True)
class NeuronEffects(Question):
    """What each neuron does to the direction over a run's sequences, and whether it tells right from wrong."""

    name: ClassVar[str] = "neuron-effects"

    scores_id: str | None = option(
        None, "The analysis of `lake experiment second-order` to read; the newest if not given.", flag="--scores"
    )

    def resolve(self, snapshot: Snapshot) -> Self:
        """With the newest scores of the run; NotFoundError if it has none."""
        return replace(self, scores_id=whole_analysis(snapshot, NAME, self.scores_id, COMMAND))

    def reads(self) -> Reads:
        """The scores and the verdicts."""
        return [("sequences", {}), (SCORES, {"analysis_id": self.scores_id or ""})]

    def parameters(self, run_ids: Sequence[str]) -> Json:
        """Whose scores are read."""
        return {"scores": self.scores_id}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        """Layer by layer."""
        snapshot, scores_id = runs[0].snapshot, self.scores_id or ""
        labels = _labels(snapshot)
        layers = [_layer(snapshot, scores_id, layer, labels) for layer in _layers(snapshot, scores_id)]
        columns = {name: np.concatenate([one[name] for one in layers]) for name in layers[0]}
        # One neuron in each of many layers is a family: the correction is over all of them.
        known = np.isfinite(columns["p_value"])
        corrected = np.full(len(known), np.nan)
        corrected[known] = holm(columns["p_value"][known].tolist())
        columns["p_holm"] = corrected
        table = {name: _nullable(values) for name, values in columns.items()}
        n = int(columns["n_sequences"].max())
        reasons = [str(one) for one in dict.fromkeys(columns["reason"].tolist()) if one and one != "no variance"]
        notices = [f"Right and wrong are not compared: {reason}." for reason in reasons]
        return Rows({"neuron_effects": {**table, "scores_id": scores_id}}, n, notices)


def _nullable(values: np.ndarray) -> Any:
    if values.dtype.kind != "f":
        return values.tolist() if values.dtype.kind == "O" else values
    return pl.Series(values).fill_nan(None).to_arrow()


def _labels(snapshot: Snapshot) -> pl.DataFrame:
    rows = scan_files(TABLES["sequences"], snapshot).select("sequence_id", "prompt_id", "correct")
    return rows.sort("sequence_id").collect()


def _layers(snapshot: Snapshot, scores_id: str) -> list[int]:
    rows = scan_files(TABLES[SCORES], snapshot).filter(pl.col("analysis_id") == scores_id).select("layer")
    return sorted(rows.unique().collect()["layer"].to_list())


def _layer(snapshot: Snapshot, scores_id: str, layer: int, labels: pl.DataFrame) -> dict[str, np.ndarray]:
    """One matrix of a layer is alive, and float64 copies of some neurons at a time: memory hardly grows with a run."""
    ids, second = _matrix(snapshot, scores_id, layer)
    about = pl.DataFrame({"sequence_id": ids}).join(labels, on="sequence_id", how="left", maintain_order="left")
    prompts = about["prompt_id"].fill_null("").to_numpy()
    correct = about["correct"].cast(pl.Int8).fill_null(-1).to_numpy()
    n, n_neurons = second.shape
    blocks = [slice(start, start + BLOCK) for start in range(0, n_neurons, BLOCK)]
    squares = sum(float(np.square(_centred(second[:, some])).sum()) for some in blocks)
    rms = float(np.sqrt(squares / max(1, second.size)))
    parts = [_block(second[:, some], rms, prompts, correct) for some in blocks]
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return found | {
        "layer": np.full(n_neurons, layer, np.int32),
        "neuron": np.arange(n_neurons, dtype=np.int32),
        "n_sequences": np.full(n_neurons, n, np.int64),
        "direct_effect": _direct_means(snapshot, scores_id, layer),
    }


def _centred(effects: Float[np.ndarray, "sequence neuron"]) -> Float[np.ndarray, "sequence neuron"]:
    return effects - effects.mean(0, dtype=np.float64)


def _block(
    effects: Float[np.ndarray, "sequence neuron"], rms: float, prompts: np.ndarray, correct: np.ndarray
) -> dict[str, np.ndarray]:
    n, n_neurons = effects.shape
    centred = _centred(effects)
    far = (np.abs(centred) > FAR * rms).mean(0) if rms > 0 else np.zeros(n_neurons)
    found = {
        "mean": effects.mean(0, dtype=np.float64),
        "sd": np.sqrt(np.square(centred).sum(0) / (n - 1)) if n > 1 else np.full(n_neurons, np.nan),
        "mean_abs": np.abs(effects).mean(0, dtype=np.float64),
        "share_significant": far,
    }
    return found | compare_classes(effects, prompts, correct == 1, correct == 0)


def _pieces(snapshot: Snapshot, scores_id: str, layer: int, effect: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    only: Mapping[str, int | str] = {"analysis_id": scores_id, "layer": layer, "effect": effect}
    for rows, vectors in read_commits(snapshot, TABLES[SCORES], only):
        yield rows["sequence_id"].to_numpy(), vectors


def _matrix(snapshot: Snapshot, scores_id: str, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """Sequence ids, sorted, and their second-order effects `[sequence neuron]`, read into place piece by piece."""
    rows = scan_files(TABLES[SCORES], snapshot).filter(
        (pl.col("analysis_id") == scores_id) & (pl.col("layer") == layer) & (pl.col("effect") == "second_order")
    )
    ids = rows.select("sequence_id").collect()["sequence_id"].sort().to_numpy()
    matrix: np.ndarray | None = None
    for some, vectors in _pieces(snapshot, scores_id, layer, "second_order"):
        matrix = np.empty((len(ids), vectors.shape[1]), vectors.dtype) if matrix is None else matrix
        matrix[np.searchsorted(ids, some)] = vectors
    assert matrix is not None
    return ids, matrix


def _direct_means(snapshot: Snapshot, scores_id: str, layer: int) -> Float[np.ndarray, " neuron"]:
    sums, n = [], 0
    for _, vectors in _pieces(snapshot, scores_id, layer, "direct"):
        sums.append(vectors.sum(0, dtype=np.float64))
        n += len(vectors)
    return np.sum(sums, axis=0) / n


def compare_classes(
    effects: Float[np.ndarray, "sequence neuron"],
    prompts: np.ndarray,
    right: Bool[np.ndarray, " sequence"],
    wrong: Bool[np.ndarray, " sequence"],
) -> dict[str, np.ndarray]:
    """Columns that compare right with wrong sequences; the value of a prompt is the mean of its sequences."""
    n_neurons = effects.shape[1]
    nothing = np.full(n_neurons, np.nan)
    found = {
        name: nothing.copy() for name in ("mean_right", "mean_wrong", "difference", "ci_low", "ci_high", "p_value")
    }
    found["n_right"] = np.full(n_neurons, int(right.sum()), np.int64)
    found["n_wrong"] = np.full(n_neurons, int(wrong.sum()), np.int64)
    sides = [_by_prompt(effects[side], prompts[side]) for side in (right, wrong)]
    fewest = min(len(names) for names, _ in sides)
    if fewest < LEAST_OF_A_CLASS:
        why = (
            "no labels" if not right.any() and not wrong.any() else f"fewer than {LEAST_OF_A_CLASS} prompts of a class"
        )
        return found | {"reason": np.full(n_neurons, why, object)}
    (_, a), (_, b) = sides
    found["mean_right"], found["mean_wrong"] = a.mean(0), b.mean(0)
    found["difference"] = found["mean_right"] - found["mean_wrong"]
    found["ci_low"], found["ci_high"] = _interval([names for names, _ in sides], [a, b])
    found["p_value"] = _welch(a, b)
    reason = np.full(n_neurons, None, object)
    reason[np.isnan(found["p_value"])] = "no variance"
    return found | {"reason": reason}


def _by_prompt(effects: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, Float[np.ndarray, "prompt neuron"]]:
    names, place, counts = np.unique(prompts, return_inverse=True, return_counts=True)
    if len(names) == len(prompts):
        return prompts, effects.astype(np.float64)
    sums = np.zeros((len(names), effects.shape[1]))
    np.add.at(sums, place, effects)
    return names, sums / counts[:, None]


def _interval(names: Sequence[np.ndarray], sides: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile interval of the difference of means, prompts drawn with replacement (definitions A8a)."""
    everybody = np.unique(np.concatenate(names))
    rng, n = np.random.default_rng(0), len(everybody)
    counts = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(N_DRAWS)]).astype(np.float32)
    means = []
    for some, values in zip(names, sides, strict=True):
        drawn = counts[:, np.searchsorted(everybody, some)]
        weight = drawn.sum(1, keepdims=True)
        # A draw without anybody of a class says nothing about the difference.
        means.append(np.where(weight > 0, drawn @ values.astype(np.float32) / np.maximum(weight, 1), np.nan))
    low, high = np.nanquantile(means[0] - means[1], (0.025, 0.975), axis=0)
    return low, high


def _welch(a: Float[np.ndarray, "prompt neuron"], b: Float[np.ndarray, "prompt neuron"]) -> np.ndarray:
    from scipy.stats import ttest_ind_from_stats

    spread = [side.std(0, ddof=1) for side in (a, b)]
    moving = (spread[0] > 0) | (spread[1] > 0)
    p = np.full(a.shape[1], np.nan)
    result = ttest_ind_from_stats(
        a.mean(0)[moving], spread[0][moving], len(a), b.mean(0)[moving], spread[1][moving], len(b), equal_var=False
    )
    p[moving] = result.pvalue
    return p
