"""Which parts of the model make it prefer one token to another: the difference of two logits, part by part.

The final norm's scale is held at what it is, so that the logits are linear in what every block has added (A10).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...lake import Lake
from ...lake.derived import Analysis, digest, input_digest
from ...lake.errors import ConfigError
from ...lake.values import Columns
from ..models.model import LoadedModel
from ..models.norms import Norm, norm_form
from ..models.readout import Readout
from ..models.sites.anatomy import Anatomy
from ..passes import ChunkRows, commit_chunks, is_whole, rows_of, sequences_with_rows
from .points import Point, PointOptions, choose_points
from .states import Key, ModelStates, StateRows, StoredStates, stored_sites

CHUNK_BYTES = 64 * 2**20
"""Of states that are alive at one time."""
LARGEST_GAP, LARGEST_GAP_HALF = 1e-3, 5e-2
"""Largest difference between the sum of the parts and the difference of the logits, over its size where that is > 1."""


@dataclass
class AttributionResult:
    """What a call did."""

    run_id: str
    analysis_id: str
    computed: bool
    n_points: int = 0
    n_rows: int = 0
    notices: list[str] = field(default_factory=list)


def needed_sites(n_layers: int, *, by_head: bool) -> list[Key]:
    """Everything that adds to the residual stream, and the state whose scale is held."""
    keys: list[Key] = [("resid_pre", 0), ("resid_post", n_layers - 1)]
    keys += [(site, layer) for layer in range(n_layers) for site in ("attn_out", "mlp_out")]
    return keys + [("z", layer) for layer in range(n_layers) if by_head]


def analyze_attribution(
    lake: Lake,
    run: str,
    options: PointOptions,
    load: Callable[[], LoadedModel],
    *,
    by_head: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, all_points: None,
) -> AttributionResult:
    """Write `logit_contributions` of some points of a run, from its stored states or, without them, by its model."""
    run_id = lake.resolve_run(run)
    snapshot = lake.snapshot(run_id)
    points = choose_points(lake, run_id, options)
    named = digest([[p.sequence_id, p.position, p.token_a, p.token_b] for p in points])[:16]
    asked = {**options.as_dict(), "points": named, "by": "head" if by_head else "layer"}
    analysis = Analysis(run_id, "attribution", asked, input_digest(snapshot, [("token_steps", {})]))
    result = AttributionResult(run_id, analysis.analysis_id, not is_whole(lake, analysis), len(points))
    if result.computed:
        only = {"analysis_id": analysis.analysis_id}
        done = sequences_with_rows(lake, run_id, "logit_contributions", only)
        _compute(lake, analysis, [p for p in points if p.sequence_id not in done], load(), by_head, result, on_progress)
    only = {"analysis_id": analysis.analysis_id}
    rows = rows_of(lake, run_id, "logit_contributions", only, ["position"])
    result.n_rows = int(rows.select(pl.len()).collect().item())
    return result


def _compute(
    lake: Lake,
    analysis: Analysis,
    points: list[Point],
    loaded: LoadedModel,
    by_head: bool,
    result: AttributionResult,
    on_progress: Callable[[int, int], None],
) -> None:
    attribution = Attribution(loaded, by_head=by_head)
    keys = needed_sites(loaded.n_layers, by_head=by_head)
    source = _PointStates(lake, analysis.run_id, loaded, keys, result.notices)
    n_done = [0]

    def compute(chunk: list[Point]) -> ChunkRows:
        wanted: dict[int, list[int]] = {}
        for point in chunk:
            wanted.setdefault(point.sequence_id, []).append(point.position)
        rows = source.read(wanted)
        columns = attribution.columns(rows, chunk)
        return ChunkRows({"logit_contributions": {**columns, "analysis_id": analysis.analysis_id}})

    def told(number: int, chunk: list[Point]) -> None:
        n_done[0] += len(chunk)
        on_progress(n_done[0], len(points))

    size = max(1, CHUNK_BYTES // (len(keys) * loaded.d_model * 4))
    commit_chunks(
        lake, analysis, _chunks(points, size) or [[]], compute, n_sequences=len({p.sequence_id for p in points}),
        notices=lambda: result.notices, replace_older=True, on_chunk=told,
    )  # fmt: skip


class _PointStates:
    """States at points: those that the run kept, or, where it kept none, those that its model computes again."""

    def __init__(self, lake: Lake, run_id: str, loaded: LoadedModel, keys: list[Key], notices: list[str]) -> None:
        self._lake, self._run_id, self._loaded, self._keys, self._notices = lake, run_id, loaded, keys, notices
        snapshot = lake.snapshot(run_id)
        self._stored = StoredStates(snapshot, loaded.model.dtype) if set(keys) <= stored_sites(snapshot) else None

    @cached_property
    def _model(self) -> ModelStates:
        self._notices.append(
            f"Run {self._run_id} did not keep {', '.join(sorted({site for site, _ in self._keys}))} of every layer and "
            "point: its model has read the sequences again."
        )
        return ModelStates(self._lake, self._run_id, self._loaded)

    def read(self, wanted: Mapping[int, Sequence[int]]) -> StateRows:
        """The states of all of these positions."""
        if self._stored is not None:
            rows = self._stored.read(wanted, self._keys)
            if len(rows.position) == sum(len(set(positions)) for positions in wanted.values()):
                return rows
        return self._model.read({one: sorted(set(positions)) for one, positions in wanted.items()}, self._keys)


def _chunks(points: Sequence[Point], size: int) -> list[list[Point]]:
    """Points in groups of about `size`; those of one sequence stay together."""
    chunks: list[list[Point]] = []
    for point in sorted(points, key=lambda p: (p.sequence_id, p.position)):
        if not chunks or (len(chunks[-1]) >= size and chunks[-1][-1].sequence_id != point.sequence_id):
            chunks.append([])
        chunks[-1].append(point)
    return chunks


@dataclass(frozen=True)
class Part:
    """One part of the model at every point."""

    name: str
    layer: int | None
    head: int | None
    contribution: Float[Tensor, " point"]


class Attribution:
    """The linear map from what each part adds to the difference of two logits, at given points."""

    def __init__(self, loaded: LoadedModel, *, by_head: bool) -> None:
        self.loaded = loaded
        self.by_head = by_head
        if loaded.encoder is not None:
            raise ConfigError(
                f"{type(loaded.model).__name__} cannot be attributed: its decoder also reads an encoder, whose part is "
                "not measured. Only decoder-only models can."
            )
        self.anatomy: Anatomy = loaded.decoder.anatomy
        for site, layer in needed_sites(loaded.n_layers, by_head=by_head):
            if site in ("attn_out", "mlp_out", "z"):
                self.anatomy.module(site, layer)  # a site that does not exist is an error before anything runs
        self.readout = Readout.of(loaded)

    @cached_property
    def _behind(self) -> list[Norm | None]:
        """The norm between each block's attention and the residual stream, where there is one."""
        forms: list[Norm | None] = []
        for layer, parts in enumerate(self.anatomy.parts):
            module = self.anatomy.module("attn_out", layer)[0]
            is_norm = module is not parts.attention
            forms.append(norm_form(module, self.loaded.d_model, self.loaded.device) if is_norm else None)
        return forms

    def columns(self, rows: StateRows, points: Sequence[Point]) -> Columns:
        """The columns of `logit_contributions`."""
        place = {key: i for i, key in enumerate(zip(rows.sequence_id.tolist(), rows.position.tolist(), strict=True))}
        order = torch.tensor([place[p.sequence_id, p.position] for p in points], dtype=torch.long)
        device = self.loaded.device
        states = {key: state[order.to(state.device)].to(device) for key, state in rows.states.items()}
        a, b = (torch.tensor([getattr(p, name) for p in points], device=device) for name in ("token_a", "token_b"))
        parts, capped, uncapped = self.parts(states, a, b)
        return _columns(points, parts, capped, uncapped)

    def parts(
        self, states: Mapping[Key, Float[Tensor, "point d_model"]], a: Int[Tensor, " point"], b: Int[Tensor, " point"]
    ) -> tuple[list[Part], Float[Tensor, " point"], Float[Tensor, " point"]]:
        """Contributions, the model's difference of logits, and that before a soft cap; ConfigError if they differ."""
        last = states["resid_post", self.loaded.n_layers - 1]
        form = self.readout.form
        v = self.readout.difference(a, b)
        u = form.pulled_back(v) / form.scale(last.double()).unsqueeze(-1)
        bias = v @ form.bias + self.readout.bias_difference(a, b)
        parts = [Part("embedding", None, None, _inner(u, states["resid_pre", 0])), Part("bias", None, None, bias)]
        for layer in range(self.loaded.n_layers):
            for site in ("attn_out", "mlp_out"):
                parts.append(Part(site, layer, None, _inner(u, states[site, layer])))
            if self.by_head:
                parts += self._heads(layer, states["z", layer], u)
        with torch.no_grad():
            logits = self.readout.logits(last).double()
        rows = torch.arange(len(a), device=a.device)
        capped = logits[rows, a] - logits[rows, b]
        raw = self.readout.uncapped(logits)
        uncapped = raw[rows, a] - raw[rows, b]
        total = torch.stack([p.contribution for p in parts if p.name not in ("head", "attn_bias")]).sum(0)
        self._check(total, uncapped)
        return parts, capped, uncapped

    def _heads(self, layer: int, z: Float[Tensor, "point d_z"], u: Float[Tensor, "point d_model"]) -> list[Part]:
        """What each head adds, and the bias of the output projection (and of a norm behind it)."""
        projection, _ = self.anatomy.module("z", layer)
        behind = self._behind[layer]
        constant = torch.zeros(len(u), dtype=torch.float64, device=u.device)
        if behind is not None:
            with torch.no_grad():
                scale = behind.scale(projection(z).double())
            constant = u @ behind.bias
            u = behind.pulled_back(u) / scale.unsqueeze(-1)
        pulled, bias = pull_back(projection, z.shape[-1], u)
        shares = (pulled.double() * z.double()).unflatten(-1, (self.loaded.n_heads, -1)).sum(-1)
        heads = [Part("head", layer, head, shares[:, head]) for head in range(self.loaded.n_heads)]
        return [*heads, Part("attn_bias", layer, None, constant + bias)]

    def _check(self, total: Tensor, uncapped: Tensor) -> None:
        gap = (total - uncapped).abs() / uncapped.abs().clamp_min(1.0)
        exact = self.loaded.model.dtype in (torch.float32, torch.float64)
        largest = float(gap.max()) if len(gap) else 0.0
        if not largest <= (LARGEST_GAP if exact else LARGEST_GAP_HALF):
            raise ConfigError(
                f"The parts do not add up to the difference of the logits (they are {largest:.3g} logits apart): the "
                "states were stored in a number format that is too narrow, hold NaN, or something else adds to the "
                "residual stream. Collect with --store-dtype float32, or leave the states out: then the model reads "
                "again."
            )


def pull_back(
    projection: nn.Module, width: int, u: Float[Tensor, "n d_out"]
) -> tuple[Float[Tensor, "n d_in"], Float[Tensor, " n"]]:
    """A linear module's transpose applied to each row of `u`, and the inner products of `u` with its bias.

    By the module's own vector-Jacobian product: how it stores its weights does not matter.
    """
    parameter = next(projection.parameters())
    with torch.enable_grad():
        leaf = torch.zeros(len(u), width, dtype=parameter.dtype, device=u.device, requires_grad=True)
        output = projection(leaf)
        (pulled,) = torch.autograd.grad(output, leaf, u.to(output.dtype))
    return pulled, (output.detach().to(u.dtype) * u).sum(-1)


def _inner(u: Tensor, state: Tensor) -> Float[Tensor, " point"]:
    return (u * state.double()).sum(-1)


def _columns(points: Sequence[Point], parts: Sequence[Part], capped: Tensor, uncapped: Tensor) -> Columns:
    """One row per part and point."""
    n, n_parts = len(points), len(parts)

    def each(values: list[int | None], dtype: pa.DataType) -> pa.Array:
        return pa.array(np.repeat(np.array(values, dtype=object), n).tolist(), dtype)

    def tiled(name: str, dtype: type) -> np.ndarray:
        return np.tile(np.array([getattr(point, name) for point in points], dtype=dtype), n_parts)

    return {
        "sequence_id": tiled("sequence_id", np.int64),
        "position": tiled("position", np.int32),
        "token_a": tiled("token_a", np.int32),
        "token_b": tiled("token_b", np.int32),
        "part": np.repeat(np.array([part.name for part in parts]), n).tolist(),
        "layer": each([part.layer for part in parts], pa.int32()),
        "head": each([part.head for part in parts], pa.int16()),
        "contribution": torch.cat([part.contribution for part in parts]).cpu().numpy(),
        "logit_diff": np.tile(capped.cpu().numpy(), n_parts),
        "logit_diff_uncapped": np.tile(uncapped.cpu().numpy(), n_parts),
    }
