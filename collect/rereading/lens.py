"""The logit lens: what the state behind every block would predict, by the model's own final norm and unembedding."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from ...lake import Lake
from ...lake.derived import Analysis, input_digest
from ...lake.errors import ConfigError, NotFoundError, UsageError
from ...lake.snapshot import Snapshot
from ...lake.values import Columns, Json
from ..models.model import LoadedModel
from ..models.readout import Readout
from ..observing.summaries import Distribution, Normalised, distribution, normalised
from ..passes import ChunkRows, chunks_of, commit_chunks, is_whole, rows_of, sequence_lengths, sequences_with_rows
from ..stored_sequences import computing
from .states import StateRows, StoredStates, stored_sites

LN2 = math.log(2.0)
BLOCK_BYTES = 32 * 2**20
"""Of logits that are alive at one time."""
CACHED_BYTES = 4 * 2**20
"""Of logits that a processor reads again and again, so that they stay in its cache."""
CHUNK_TOKENS = 4096
MOST_APART = {"float32": 0.02, "float64": 0.02}
MOST_APART_HALF = 0.5
"""Largest median difference of log-probabilities from `token_steps`; a wrong model or norm is further away."""


@dataclass(frozen=True)
class LensOptions:
    """What is asked; None: every stored layer, every sequence."""

    layers: tuple[int, ...] | None = None
    sequences: tuple[int, ...] | None = None
    topk: int = 5


@dataclass
class LensResult:
    """What a call did."""

    run_id: str
    analysis_id: str
    computed: bool
    n_rows: int = 0
    layers: list[int] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def analyze_lens(
    lake: Lake,
    run: str,
    options: LensOptions,
    load: Callable[[], LoadedModel],
    *,
    load_readout: Callable[[], Readout | None] = lambda: None,
    on_progress: Callable[[int, int], None] = lambda done, all_tokens: None,
) -> LensResult:
    """Write `logit_lens` from the run's stored residual states; the model is loaded only if something is missing.

    `load_readout` may give its final norm and unembedding alone; `load` gives all of it, where that cannot be.
    """
    run_id = lake.resolve_run(run)
    snapshot = lake.snapshot(run_id)
    layers, last = _layers(lake, run_id, snapshot, options)
    if options.topk < 1:
        raise UsageError(f"--topk must be at least 1, not {options.topk}.")
    reads: list[tuple[str, Mapping[str, int | str]]] = [("token_steps", {})]
    reads += [("activations", {"site": "resid_post", "layer": layer}) for layer in sorted({*layers, last})]
    asked = {"layers": layers, "topk": options.topk, "sequences": options.sequences and sorted(options.sequences)}
    analysis = Analysis(run_id, "lens", asked, input_digest(snapshot, reads))
    result = LensResult(run_id, analysis.analysis_id, computed=not is_whole(lake, analysis), layers=layers)
    if result.computed:
        lengths = _chosen(lake, run_id, options.sequences)
        done = sequences_with_rows(lake, run_id, "logit_lens", {"analysis_id": analysis.analysis_id})
        missing = {sequence_id: n for sequence_id, n in lengths.items() if sequence_id not in done}
        part = load_readout()
        lens = None if part is None else Lens(part, layers, last, options.topk)
        if lens is None or not _explains(lake, run_id, lens, next(iter(lengths))):
            lens = Lens(Readout.of(load()), layers, last, options.topk)
            lens.notices.append("The whole model was loaded: its final norm and unembedding could not be read alone.")
        _compute(lake, analysis, lens, missing, len(lengths), on_progress)
        result.notices = lens.notices
    only = {"analysis_id": analysis.analysis_id}
    result.n_rows = int(rows_of(lake, run_id, "logit_lens", only, ["position"]).select(pl.len()).collect().item())
    return result


def _explains(lake: Lake, run_id: str, lens: "Lens", sequence_id: int) -> bool:
    """Whether the lens predicts what the run stored of one sequence, in its last layer; not if it stored nothing."""
    source = StoredStates(lake.snapshot(run_id), lens.readout.loaded.model.dtype)
    rows = source.read({sequence_id: None}, [("resid_post", lens.last)])
    following = next_tokens(lake, run_id, [sequence_id], rows)
    if not np.isfinite(following.logprob).any():
        return False
    try:
        with computing():
            Lens(lens.readout, [lens.last], lens.last, 1).columns(rows, following)
    except ConfigError:
        return False
    return True


def _compute(
    lake: Lake,
    analysis: Analysis,
    lens: "Lens",
    missing: dict[int, int],
    n_sequences: int,
    on_progress: Callable[[int, int], None],
) -> None:
    source = StoredStates(lake.snapshot(analysis.run_id), lens.readout.loaded.model.dtype)
    keys = [("resid_post", layer) for layer in sorted({*lens.layers, lens.last})]
    n_done, n_tokens = [0], sum(missing.values())

    def compute(chunk: list[int]) -> ChunkRows:
        rows = source.read(dict.fromkeys(chunk), keys)
        following = next_tokens(lake, analysis.run_id, chunk, rows)
        with computing():
            columns = lens.columns(rows, following)
        return ChunkRows({"logit_lens": {**columns, "analysis_id": analysis.analysis_id}})

    def told(number: int, chunk: list[int]) -> None:
        n_done[0] += sum(missing[sequence_id] for sequence_id in chunk)
        on_progress(n_done[0], n_tokens)

    commit_chunks(
        lake, analysis, chunks_of(missing, CHUNK_TOKENS) or [[]], compute, n_sequences=n_sequences,
        notices=lambda: lens.notices, replace_older=True, on_chunk=told,
    )  # fmt: skip


def _layers(lake: Lake, run_id: str, snapshot: Snapshot, options: LensOptions) -> tuple[list[int], int]:
    """The layers that are read, and the last one of the model, whose prediction the others are compared with."""
    stored = sorted(layer for site, layer in stored_sites(snapshot) if site == "resid_post")
    n_layers = (lake.run_json(run_id).get("model") or {}).get("n_layers")
    if not isinstance(n_layers, int):
        raise ConfigError(
            f"Run {run_id} names no model (it was imported?): there is no unembedding to read states with."
        )
    again = f"lake collect --continue {run_id} --max-new-tokens 0 --keep activations:resid_post"
    last = n_layers - 1
    if last not in stored:
        raise NotFoundError(
            f"The lens compares every layer with the last one, and run {run_id} kept no resid_post of layer {last} "
            f"(kept: {', '.join(map(str, stored)) or 'none'}). A run that keeps it: {again}"
        )
    if options.layers is None:
        return stored, last
    wanted = sorted({layer + n_layers if layer < 0 else layer for layer in options.layers})
    if missing := [layer for layer in wanted if layer not in stored]:
        raise NotFoundError(
            f"Run {run_id} kept no resid_post of layer {missing[0]}. Kept: {', '.join(map(str, stored))}. "
            f"A run that keeps all: {again}"
        )
    return wanted, last


def _chosen(lake: Lake, run_id: str, sequences: Sequence[int] | None) -> dict[int, int]:
    lengths = sequence_lengths(lake, run_id)
    if sequences is None:
        return lengths
    for sequence_id in sequences:
        if sequence_id not in lengths:
            raise NotFoundError(
                f"Run {run_id} has no sequence {sequence_id}; its ids go from {min(lengths)} to {max(lengths)}."
            )
    return {sequence_id: lengths[sequence_id] for sequence_id in sorted(set(sequences))}


@dataclass(frozen=True)
class NextTokens:
    """The token behind each row's, -1 where there is none, and the log-probability that the run stored for it."""

    token_id: np.ndarray
    logprob: np.ndarray


def next_tokens(lake: Lake, run_id: str, chunk: Sequence[int], rows: StateRows) -> NextTokens:
    """What stands at the next position of every row."""
    steps = (
        lake.scan("token_steps", run_id)
        .filter(pl.col("sequence_id").is_in(list(chunk)))
        .select("sequence_id", (pl.col("position") - 1).alias("position"), "token_id", "logprob")
    )
    keys = pl.LazyFrame({"sequence_id": rows.sequence_id, "position": rows.position.astype(np.int32)})
    joined = keys.join(steps, on=["sequence_id", "position"], how="left", maintain_order="left").collect()
    return NextTokens(
        joined["token_id"].fill_null(-1).to_numpy().astype(np.int64),
        joined["logprob"].cast(pl.Float64).fill_null(math.nan).to_numpy(),
    )


class Lens:
    """Reads states of some layers as predictions."""

    def __init__(self, readout: Readout, layers: Sequence[int], last: int, topk: int) -> None:
        self.readout = readout
        self.layers, self.last = list(layers), last
        self.topk = min(topk, readout.loaded.d_vocab)
        self.notices: list[str] = []
        self._block = max(1, BLOCK_BYTES // (4 * readout.loaded.d_vocab))

    def columns(self, rows: StateRows, following: NextTokens) -> Columns:
        """The columns of `logit_lens`, layer after layer."""
        device = self.readout.loaded.device
        token_ids = torch.from_numpy(following.token_id).to(device)
        parts: dict[int, list[tuple[Distribution, Tensor]]] = {layer: [] for layer in self.layers}
        final_logprob: list[Tensor] = []
        for start in range(0, len(token_ids), self._block):
            span = slice(start, start + self._block)
            ids = token_ids[span].clamp_min(0)
            final = self._logits(rows, self.last, span)
            target = final.log_softmax(-1)
            final_logprob.append(target.gather(-1, ids[:, None])[:, 0])
            target = Target.of(target)
            for layer in self.layers:
                logits = final if layer == self.last else self._logits(rows, layer, span)
                parts[layer] += self._read(logits, ids, None if layer == self.last else target)
        if final_logprob:
            self._check(torch.cat(final_logprob).double().cpu().numpy(), following)
        return _joined(self.layers, parts, rows, following.token_id >= 0, self.topk)

    def _read(
        self, logits: Float[Tensor, "n d_vocab"], ids: Tensor, target: "Target | None"
    ) -> Iterator[tuple[Distribution, Tensor]]:
        """What a layer predicts, and how far it is from the last one (None: it is the last), a few rows at a time."""
        few = max(1, CACHED_BYTES // (4 * logits.shape[-1])) if logits.device.type == "cpu" else len(logits)
        for start in range(0, len(logits), few):
            span = slice(start, start + few)
            own = normalised(logits[span])
            apart = torch.zeros_like(own.entropy) if target is None else target.kl_bits(own, span)
            yield distribution(logits[span], ids[span], k=self.topk, known=own), apart

    def _logits(self, rows: StateRows, layer: int, span: slice) -> Float[Tensor, "n d_vocab"]:
        states = rows.states["resid_post", layer][span]
        return self.readout.logits(states.to(self.readout.loaded.device)).float()

    def _check(self, logprob: np.ndarray, following: NextTokens) -> None:
        """ConfigError if the last layer does not predict what the run stored: then this is not its model."""
        apart = np.abs(logprob - following.logprob)
        known = np.isfinite(apart)
        dtype = str(self.readout.loaded.model.dtype).removeprefix("torch.")
        if known.any() and float(np.median(apart[known])) > MOST_APART.get(dtype, MOST_APART_HALF):
            raise ConfigError(
                "The last layer's states, read by this model's final norm and unembedding, do not predict what the run "
                f"stored (log-probabilities are {float(np.median(apart[known])):.3g} nats apart in the median): it was "
                "collected with another model, or its final states are made otherwise."
            )


@dataclass(frozen=True)
class Target:
    """The last layer's predictions, which those of the others are compared with."""

    weight: Float[Tensor, "n d_vocab"]
    """Probabilities."""
    entropy: Float[Tensor, " n"]
    """In nats."""

    @classmethod
    def of(cls, logprobs: Float[Tensor, "n d_vocab"]) -> "Target":
        """Of log-probabilities; one of -inf counts as nothing."""
        weight = logprobs.exp()
        return cls(weight, -torch.linalg.vecdot(weight, logprobs.clamp_min(torch.finfo(torch.float32).min)))

    def kl_bits(self, lens: Normalised, span: slice) -> Float[Tensor, " n"]:
        """KL(last || lens) in bits of these rows: the cross entropy less the entropy, in one pass over the words."""
        weight = self.weight[span]
        cross = lens.log_total[:, 0] * weight.sum(-1) - torch.linalg.vecdot(weight, lens.shifted)
        return ((cross - self.entropy[span]) / LN2).clamp_min(0)


def _joined(
    layers: Sequence[int],
    parts: Mapping[int, list[tuple[Distribution, Tensor]]],
    rows: StateRows,
    has_next: np.ndarray,
    topk: int,
) -> Json:
    n, n_layers = len(rows.position), len(layers)

    def column(name: str) -> np.ndarray:
        values = [getattr(part, name) for layer in layers for part, _ in parts[layer]]
        return torch.cat(values).cpu().numpy() if values else np.zeros(0, np.float32)

    known = np.tile(has_next, n_layers)
    divergence = [kl for layer in layers for _, kl in parts[layer]]
    entropy = column("entropy_bits")
    broken = np.isnan(entropy)
    columns: Columns = {
        "sequence_id": np.tile(rows.sequence_id, n_layers),
        "position": np.tile(rows.position.astype(np.int32), n_layers),
        "layer": np.repeat(np.array(layers, dtype=np.int32), n),
        "reason": pa.array(["not a number" if one else None for one in broken.tolist()], pa.string()),
    }
    numbers = {name: column(name) for name in ("entropy_bits", "top1_prob", "logprob")}
    numbers["kl_bits"] = torch.cat(divergence).cpu().numpy() if divergence else np.zeros(0, np.float32)
    for name, values in numbers.items():
        missing = ~known if name == "logprob" else np.zeros(len(values), bool)
        columns[name] = pa.array(values, mask=missing | broken | np.isnan(values))
    columns["rank"] = pa.array(column("rank").astype(np.int32), mask=~known | broken)
    for name in ("topk_ids", "topk_logprobs"):
        values = column(name).reshape(-1)
        offsets = pa.array(np.arange(0, len(values) + 1, topk, dtype=np.int32))
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values), mask=pa.array(broken))
    return columns
