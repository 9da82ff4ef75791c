"""How much of chosen neurons' activations each later head carries to position T: q(n;k,h), prompt by prompt (A12)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...lake import Lake
from ...lake.derived import Analysis, StoredAnalysis, digest, input_digest, stored_analyses
from ...lake.errors import NotFoundError, UsageError, did_you_mean
from ...lake.values import JsonView, Row
from ..decoding.reading.check import choose_reading
from ..models.model import LoadedModel
from ..passes import ChunkRows, commit_chunks, is_whole, sequences_with_rows
from ..rereading.directions import Direction, find_direction
from ..rereading.second_order.effects import BATCH_SIZE, CHUNK_SEQUENCES, NEURON_BYTES
from ..rereading.second_order.frozen_pass import FrozenPass, read_frozen
from ..rereading.second_order.head_paths import HeadPaths, width_of
from ..rereading.second_order.scorer import HUNDRED, PLAIN, STATE
from ..rereading.targets import Target, choose_targets, cut_sequences
from ..stored_sequences import StoredBatch, batches_of
from .choice import Chosen, choose_neurons

NAME, SCORES = "neuron-paths", "second-order"


@dataclass(frozen=True)
class Scored:
    """The stored scores whose neurons are looked at."""

    run_id: str
    analysis_id: str
    at: str
    scaling: str
    direction: Direction


@dataclass
class NeuronPaths:
    """What a call did."""

    run_id: str
    analysis_id: str
    computed: bool
    chosen: Chosen
    n_sequences: int = 0
    notices: list[str] = field(default_factory=list)


def find_scores(lake: Lake, run: str, scores_id: str | None = None, direction: str | None = None) -> Scored:
    """The newest scores of a run, or those named, with their direction; `direction` says where it lies now."""
    run_id = lake.resolve_run(run)
    stored = _whole(lake, run_id)
    if not stored:
        raise NotFoundError(
            f"Run {run_id} has no second-order scores: lake experiment second-order {run_id} --direction FILE"
        )
    if scores_id is not None and scores_id not in stored:
        raise NotFoundError(f"Run {run_id} has no scores {scores_id!r}.{did_you_mean(scores_id, stored)}")
    one = stored[scores_id or list(stored)[-1]]
    asked: JsonView = one.parameters
    if asked["scaling"] not in (PLAIN, STATE):
        raise UsageError(
            f"Scores {one.analysis_id} have --scaling {asked['scaling']}, which spreads biases over neurons: their "
            "effects are no sum over heads alone. Use scores with --scaling plain or state (--scores ID)."
        )
    vector = _direction(lake, one.analysis_id, direction, asked["direction"])
    if vector.sha256 != asked["direction_sha256"]:
        raise UsageError(
            f"{vector.name} is not the direction of scores {one.analysis_id} any more (its values are others). Give "
            "the file that was used: --direction FILE."
        )
    return Scored(run_id, one.analysis_id, asked["at"], asked["scaling"], vector)


def _direction(lake: Lake, scores_id: str, given: str | None, stored: str) -> Direction:
    try:
        return find_direction(lake, given or stored)
    except NotFoundError as error:
        if given is not None or not stored.endswith(".npy"):
            raise
        raise NotFoundError(
            f"Scores {scores_id} were made with the file {stored}, which is not in this folder. Say where it lies: "
            "--direction FILE."
        ) from error


def _whole(lake: Lake, run_id: str) -> dict[str, StoredAnalysis]:
    stored = stored_analyses(lake.snapshot(run_id).runs[run_id]).values()
    return {one.analysis_id: one for one in stored if one.name == SCORES and one.n_rows.get("analyses")}


def neuron_paths(
    lake: Lake,
    scored: Scored,
    neurons: str,
    load: Callable[[], LoadedModel],
    *,
    on_progress: Callable[[int, int], None] = lambda done, everything: None,
) -> NeuronPaths:
    """Write `second_order_paths` of chosen neurons at every sequence that was scored; what is there is looked up."""
    run_id = scored.run_id
    chosen = choose_neurons(lake.snapshot(run_id), scored.analysis_id, neurons, _widths(lake, scored))
    named = {str(layer): list(some) for layer, some in chosen.items()}
    asked = {"scores": scored.analysis_id, "neurons": digest(named)[:16]}
    reads = [("sequences", {}), ("token_steps", {})]
    analysis = Analysis(run_id, NAME, asked, input_digest(lake.snapshot(run_id), reads))
    targets, notices = choose_targets(lake, run_id, scored.at)
    result = NeuronPaths(run_id, analysis.analysis_id, not is_whole(lake, analysis), chosen, len(targets), notices)
    if result.computed:
        _compute(lake, analysis, scored, load(), targets, result, on_progress)
    return result


def _widths(lake: Lake, scored: Scored) -> list[int]:
    """Neurons of each layer, as the scores have them."""
    import polars as pl

    rows = (
        lake.scan("second_order_scores", scored.run_id)
        .filter(pl.col("analysis_id") == scored.analysis_id)
        .group_by("layer")
        .agg(pl.col("dim").first())
        .sort("layer")
        .collect()
    )
    return rows["dim"].to_list()


def _compute(
    lake: Lake,
    analysis: Analysis,
    scored: Scored,
    loaded: LoadedModel,
    targets: Sequence[Target],
    result: NeuronPaths,
    on_progress: Callable[[int, int], None],
) -> None:
    paths, reading = HeadPaths(loaded, scored.direction.vector), choose_reading(loaded)
    only = {"analysis_id": analysis.analysis_id}
    done = sequences_with_rows(lake, analysis.run_id, "second_order_paths", only)
    missing = [target for target in targets if target.sequence_id not in done]
    chunks = [missing[start : start + CHUNK_SEQUENCES] for start in range(0, len(missing), CHUNK_SEQUENCES)]
    width = max(width_of(loaded.decoder.anatomy.module("mlp_post", layer)[0]) for layer in result.chosen)
    n_read = [len(done)]

    def compute(chunk: list[Target]) -> ChunkRows:
        longest = max((target.position + 1 for target in chunk), default=1)
        size = max(
            1, min(BATCH_SIZE, NEURON_BYTES // (loaded.n_layers * longest * width * loaded.model.dtype.itemsize))
        )
        vectors: list[Row] = []
        for batch in batches_of(cut_sequences(lake, analysis.run_id, chunk), reading, size):
            frozen = read_frozen(paths, StoredBatch(loaded, batch, reading))
            ids = np.array([one.sequence_id for one in batch], np.int64)
            last = np.array([one.n_prompt + len(one.given) - 1 for one in batch], np.int32)
            vectors += _rows(frozen, scored.scaling, result.chosen, ids, last, analysis.analysis_id)
        n_read[0] += len(chunk)
        return ChunkRows({}, vectors)

    commit_chunks(
        lake, analysis, chunks or [[]], compute, n_sequences=len(targets), notices=lambda: result.notices,
        replace_older=True, on_chunk=lambda number, chunk: on_progress(n_read[0], len(targets)),
    )  # fmt: skip


def _rows(
    frozen: FrozenPass, scaling: str, chosen: Chosen, ids: np.ndarray, last: np.ndarray, analysis_id: str
) -> list[Row]:
    """Calls of `append_vectors`, one per layer: q of each sequence and neuron."""
    factor = np.full(len(ids), HUNDRED)
    if scaling == STATE:
        factor = HUNDRED / frozen.final.double().norm(dim=-1).cpu().numpy()
    calls = []
    for layer, neurons in chosen.items():
        p = frozen.mlp_post[layer][:, :, list(neurons)]
        q = frozen.paths(layer).to(p.dtype) @ p  # [row path neuron]
        if not q.shape[1]:
            continue
        n = len(neurons)
        columns = {
            "sequence_id": np.repeat(ids, n), "analysis_id": analysis_id,
            "layer": np.full(len(ids) * n, layer, np.int32),
            "neuron": np.tile(np.array(neurons, np.int32), len(ids)), "position": np.repeat(last, n),
            "factor": np.repeat(factor, n),
        }  # fmt: skip
        matrix = q.transpose(1, 2).flatten(0, 1).float().cpu().numpy()
        calls.append({"table": "second_order_paths", "columns": columns, "vectors": matrix, "dtype": "float32"})
    return calls
