"""States of the answer's tokens of each sequence, read from stored activations of one site and layer.

Step t is the t-th generated token; the end token is no answer token; step -1 is the prompt's last token.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.reading.batches import read_commits
from ...lake.records.layers import layer_number
from ...lake.schema import TABLES
from ...lake.snapshot import Snapshot
from .stored_paths import read_sequences

At = Literal["prompt", "answer", "mean"]
"""The prompt's last token, the answer's last token, or the mean of the answer's tokens."""


@dataclass(frozen=True)
class States:
    """States of some whole sequences, sorted by (sequence, step)."""

    place: Int[np.ndarray, " row"]
    """Row of `sequences` that the state belongs to."""
    step: Int[np.ndarray, " row"]
    """Step of the token that was read; -1 for the prompt's last token, less before it."""
    vectors: Float[np.ndarray, "row dim"]


def answers(snapshot: Snapshot, only: Sequence[int] | None = None) -> pl.DataFrame:
    """The rows of `sequences`, sorted by id, with `n_answer`: generated tokens without the end token."""
    ended = (pl.col("finish_reason") == "eos").fill_null(False).cast(pl.Int32)
    count = (pl.col("n_generated_tokens").fill_null(0) - ended).clip(lower_bound=0)
    return read_sequences(snapshot, only).with_columns(
        count.alias("n_answer"), pl.col("n_prompt_tokens").fill_null(0)
    )  # fmt: skip


def stored_places(snapshot: Snapshot) -> dict[str, list[int]]:
    """Layers of each site whose activations are stored."""
    found: dict[str, set[int]] = {}
    for entry in snapshot.files("activations"):
        found.setdefault(str(entry.partition["site"]), set()).add(int(entry.partition["layer"]))
    return {site: sorted(layers) for site, layers in sorted(found.items())}


def chosen_layers(snapshot: Snapshot, site: str, layers: str) -> list[int]:
    """The stored layers that `layers` means: all, or numbers and ranges such as 0,6,-1 or 8-11."""
    [(run_id, log)] = snapshot.runs.items()
    stored = stored_places(snapshot)
    if site not in stored:
        kept = ", ".join(f"{s} (layers {', '.join(map(str, n))})" for s, n in stored.items()) or "none"
        raise NotFoundError(
            f"Run {run_id} stores no activations of site {site!r}. Stored: {kept}.{_near(site, stored)} "
            f"`lake collect --continue {run_id} --max-new-tokens 0 --keep activations:{site}` reads them again."
        )
    if layers == "all":
        return stored[site]
    wanted: list[int] = []
    for part in layers.split(","):
        match = re.fullmatch(r"(-?\d+)(?:-(-?\d+))?", part.strip())
        if not match:
            raise UsageError(f"--layer {layers!r} is no list of layers. Possible: all, or e.g. 0,6,-1 or 8-11.")
        ends = [layer_number(run_id, log.run_json, int(number)) for number in match.groups() if number is not None]
        if ends[-1] < ends[0]:
            raise UsageError(f"--layer {part.strip()} runs backwards; write {ends[-1]}-{ends[0]}.")
        wanted += range(ends[0], ends[-1] + 1)
    if missing := sorted(set(wanted) - set(stored[site])):
        raise NotFoundError(
            f"Run {run_id} stores no {site} of layer {missing[0]}. Stored: layers {', '.join(map(str, stored[site]))}. "
            f"`lake collect --continue {run_id} --max-new-tokens 0 --keep activations:{site}@{missing[0]}` reads it."
        )
    return sorted(set(wanted))


def _near(site: str, stored: dict[str, list[int]]) -> str:
    return did_you_mean(site, stored).partition(" Possible:")[0] if stored else ""


def read_states(
    snapshot: Snapshot, site: str, layer: int, sequences: pl.DataFrame, *, check: bool = True
) -> Iterator[States]:
    """Every stored state of these sequences, one commit at a time; ConfigError where one is not finite.

    Without `check` the caller looks, in the pass over the vectors that it makes anyway, and calls `check_finite`.
    """
    ids, n_prompt = sequences["sequence_id"].to_numpy(), sequences["n_prompt_tokens"].to_numpy()
    if not len(ids):
        return
    for rows, vectors in read_commits(snapshot, TABLES["activations"], {"site": site, "layer": layer}):
        sequence, position = rows["sequence_id"].to_numpy(), rows["position"].to_numpy().astype(np.int64)
        place = np.minimum(np.searchsorted(ids, sequence), len(ids) - 1)
        order = np.lexsort((position, sequence))
        order = order[(ids[place] == sequence)[order]]
        if len(order):
            sorted_already = len(order) == len(sequence) and bool((np.diff(order) == 1).all())
            chosen = vectors if sorted_already else vectors[order]
            states = States(place[order], position[order] - n_prompt[place[order]], chosen)
            if check:
                check_finite(states, ids, site, layer)
            yield states


def check_finite(states: States, ids: Int[np.ndarray, " sequence"], site: str, layer: int) -> None:
    """ConfigError where a state is not finite; `ids` are the ids of `sequences`."""
    kind = np.result_type(states.vectors.dtype, np.float32)  # of more, numpy would convert each value first
    with np.errstate(over="ignore"):
        if np.isfinite(states.vectors.sum(dtype=kind)):  # one pass: what is not finite stays so in a sum
            return
    broken = ~np.isfinite(states.vectors).all(axis=1)
    if broken.any():
        some = np.unique(ids[states.place[broken]])[:5].tolist()
        raise ConfigError(
            f"{site} of layer {layer} holds NaN or infinite states (sequences {some}): no mean, variance or direction "
            "of them would be right. Collect again in another number format (--dtype float32), or leave them out."
        )


def states_at(
    snapshot: Snapshot, site: str, layer: int, sequences: pl.DataFrame, at: At
) -> Float[np.ndarray, "sequence dim"]:
    """One state per sequence: at the prompt's last token, the answer's last token, or the answer's mean.

    NaN where a sequence has no such state; NotFoundError where none has.
    """
    n_answer = sequences["n_answer"].to_numpy()
    out: np.ndarray | None = None
    for states in read_states(snapshot, site, layer, sequences):
        if out is None:
            out = np.full((len(sequences), states.vectors.shape[1]), np.nan)
        if at == "prompt":
            rows = states.step == -1
        elif at == "answer":
            rows = (states.step == n_answer[states.place] - 1) & (states.step >= 0)
        else:
            rows = (states.step >= 0) & (states.step < n_answer[states.place])
        place, vectors = states.place[rows], states.vectors[rows].astype(np.float64)
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        if len(starts):
            counts = np.diff(starts, append=len(place))
            whole = counts == (n_answer[place[starts]] if at == "mean" else 1)
            out[place[starts][whole]] = (np.add.reduceat(vectors, starts) / counts[:, None])[whole]
    if out is None or np.isnan(out).all():
        [run_id] = snapshot.runs
        which = {"prompt": ":prompt", "answer": ":generated", "mean": ":generated"}[at]
        raise NotFoundError(
            f"Run {run_id} stores {site} of layer {layer}, but no state for --at {at}. "
            f"`lake collect --continue {run_id} --max-new-tokens 0 --keep activations:{site}@{layer}{which}` reads it."
        )
    return out
