"""What every neuron does to a direction of the final state through the attention heads of later layers (A12, B 4.2).

score_n = 100 x sum over later heads of <w_n, c(k,h)> x sum over tokens of B(k,h,i) p(i,n): all neurons of all layers
from one forward pass, and no tensor of tokens x neurons x width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ....lake import Lake
from ....lake.derived import Analysis, input_digest
from ....lake.errors import ConfigError
from ....lake.values import Json, Row
from ...decoding.reading.check import choose_reading
from ...models.model import LoadedModel
from ...passes import ChunkRows, commit_chunks, is_whole, sequences_with_rows
from ...stored_sequences import StoredBatch, batches_of
from ..directions import Direction
from ..targets import Target, choose_targets, cut_sequences
from .frozen_pass import FrozenPass, closing_error, read_frozen
from .head_paths import CLOSED, HeadPaths
from .head_sums import HeadSums
from .scorer import CLIP, LayerScores, Scorer, SecondOrderOptions
from .spread_scores import SpreadScorer

SECOND, DIRECT = "second_order", "direct"
NEURON_BYTES = 256 * 2**20
"""Of neuron activations that are alive at one time: it sets how many sequences share a pass."""
BATCH_SIZE, CHUNK_SEQUENCES = 8, 64


@dataclass
class SecondOrderResult:
    """What a call did."""

    run_id: str
    analysis_id: str
    computed: bool
    n_sequences: int = 0
    closing_error: float | None = None
    """Largest relative error of the closing identity on the first batch."""
    notices: list[str] = field(default_factory=list)


def second_order(
    lake: Lake,
    run: str,
    direction: Direction,
    options: SecondOrderOptions,
    load: Callable[[], LoadedModel],
    *,
    on_progress: Callable[[int, int], None] = lambda done, everything: None,
) -> SecondOrderResult:
    """Write the scores of a run's sequences for one direction; what is there already is not computed again."""
    options.check()
    run_id = lake.resolve_run(run)
    direction.check_run(lake, run_id)
    targets, notices = choose_targets(lake, run_id, options.at)
    asked = {"direction": direction.name, "direction_sha256": direction.sha256, **vars(options)}
    digest = input_digest(lake.snapshot(run_id), [("sequences", {}), ("token_steps", {})])
    analysis = Analysis(run_id, "second-order", asked, digest)
    result = SecondOrderResult(run_id, analysis.analysis_id, not is_whole(lake, analysis), len(targets), None, notices)
    if result.computed:
        loaded = load()
        stored = (lake.run_json(run_id).get("model") or {}).get("dtype")
        if stored not in ("float32", "float64"):
            notices.append(f"The run was collected in {stored}; effects are computed in float32.")
        run_pass = _Pass(lake, analysis, HeadPaths(loaded, direction.vector), options, result)
        run_pass.run(targets, on_progress)
    return result


def scorer_of(paths: HeadPaths, options: SecondOrderOptions) -> Scorer:
    """The scorer of a scaling."""
    if options.scaling != CLIP:
        return Scorer(paths, options)
    return SpreadScorer(HeadPaths(paths.loaded, paths.direction, centred=False), options)


class _Pass:
    """The pass over a run's sequences, batch by batch, committed chunk by chunk."""

    def __init__(
        self, lake: Lake, analysis: Analysis, paths: HeadPaths, options: SecondOrderOptions, result: SecondOrderResult
    ) -> None:
        self.lake, self.analysis, self.paths, self.result = lake, analysis, paths, result
        self.options = options
        self.scorer = scorer_of(paths, options)
        self.reading = choose_reading(paths.loaded)
        self.head_sums = HeadSums(self.scorer.onto) if options.by_head else None

    def run(self, targets: Sequence[Target], on_progress: Callable[[int, int], None]) -> None:
        """Everything that is missing; sums by head are of all sequences, so that they are never begun in the middle."""
        only = {"analysis_id": self.analysis.analysis_id}
        done = sequences_with_rows(self.lake, self.analysis.run_id, "second_order_scores", only)
        missing = [t for t in targets if t.sequence_id not in done or self.options.by_head]
        chunks = [missing[start : start + CHUNK_SEQUENCES] for start in range(0, len(missing), CHUNK_SEQUENCES)]
        n_read = [0]

        def compute(chunk: list[Target]) -> ChunkRows:
            vectors, tables = self._chunk(chunk, done)
            n_read[0] += len(chunk)
            if self.head_sums is not None and n_read[0] == len(missing):
                rows = self.head_sums.columns(self.options.top)
                tables["second_order_heads"] = rows | {"analysis_id": self.analysis.analysis_id}
            return ChunkRows(tables, vectors)

        commit_chunks(
            self.lake, self.analysis, chunks or [[]], compute, n_sequences=len(targets),
            notices=lambda: self.result.notices, replace_older=True,
            on_chunk=lambda number, chunk: on_progress(n_read[0], len(missing)),
        )  # fmt: skip

    def _chunk(self, chunk: Sequence[Target], done: set[int]) -> tuple[list[Row], dict[str, Json]]:
        vectors: list[Row] = []
        tokens: list[dict[str, np.ndarray]] = []
        for batch in batches_of(cut_sequences(self.lake, self.analysis.run_id, chunk), self.reading, self._size(chunk)):
            stored = StoredBatch(self.paths.loaded, batch, self.reading)
            frozen = read_frozen(self.paths, stored, keep_states=self.result.closing_error is None)
            self._check(frozen, [one.sequence_id for one in batch])
            ids = np.array([one.sequence_id for one in batch], np.int64)
            new = np.array([sequence_id not in done for sequence_id in ids.tolist()])
            last = np.array([one.n_prompt + len(one.given) - 1 for one in batch], np.int32)
            for scores in self.scorer.scores(frozen):
                if self.head_sums is not None and scores.heads is not None:
                    self.head_sums.add(scores.layer, scores.heads)
                if new.any():
                    vectors += self._vectors(scores, ids, last, new)
                    tokens += _token_rows(scores, stored, ids, new)
            if self.head_sums is not None:
                self.head_sums.n_sequences += len(batch)
        tables = {}
        if tokens:
            joined = {name: np.concatenate([rows[name] for rows in tokens]) for name in tokens[0]}
            tables["second_order_tokens"] = joined | {"analysis_id": self.analysis.analysis_id}
        return vectors, tables

    def _size(self, chunk: Sequence[Target]) -> int:
        """Sequences that share a pass."""
        loaded = self.paths.loaded
        longest = max((target.position + 1 for target in chunk), default=1)
        one = loaded.n_layers * longest * self.scorer.direct[0].numel() * loaded.model.dtype.itemsize
        return max(1, min(BATCH_SIZE, NEURON_BYTES // one))

    def _check(self, frozen: FrozenPass, sequence_ids: list[int]) -> None:
        """ConfigError for states that are no numbers and, once, for a model that the paths do not explain."""
        broken = ~frozen.final.isfinite().all(-1)
        if broken.any():
            raise ConfigError(
                f"The final state of sequence {sequence_ids[int(broken.nonzero()[0])]} holds NaN or infinity: no "
                "effect can be computed there. `lake query nan_report` shows where it begins; leave the sequence out."
            )
        if self.result.closing_error is not None:
            return
        error = closing_error(self.paths, frozen)
        if not error <= CLOSED[self.paths.dtype]:
            raise ConfigError(
                f"{type(self.paths.loaded.model).__name__} is not explained by paths through its heads: the closing "
                f"identity fails by {error:.2g}. Its attention or its residual stream does something that is not known "
                "here, so that no number is given."
            )
        self.result.closing_error = error

    def _vectors(self, scores: LayerScores, ids: np.ndarray, last: np.ndarray, new: np.ndarray) -> list[Row]:
        calls = []
        for effect, values in ((SECOND, scores.second), (DIRECT, scores.direct)):
            columns = {
                "sequence_id": ids[new],
                "analysis_id": self.analysis.analysis_id,
                "layer": np.full(int(new.sum()), scores.layer, np.int32),
                "effect": effect,
                "position": last[new],
                "scaling": self.options.scaling,
                "total": values.sum(-1).cpu().numpy()[new],
            }
            matrix = values.float().cpu().numpy()[new]
            calls.append(
                {"table": "second_order_scores", "columns": columns, "vectors": matrix, "dtype": "float32"}
            )  # fmt: skip
        return calls


def _token_rows(
    scores: LayerScores, stored: StoredBatch, ids: np.ndarray, new: np.ndarray
) -> list[dict[str, np.ndarray]]:
    if scores.tokens is None:
        return []
    found = []
    for row in np.flatnonzero(new):
        values = scores.tokens[row, int(stored.pads[row]) :].cpu().numpy()
        found.append(
            {
                "sequence_id": np.full(len(values), ids[row]),
                "position": np.arange(len(values), dtype=np.int32),
                "layer": np.full(len(values), scores.layer, np.int32),
                "score": values,
            }
        )
    return found
