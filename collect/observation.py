"""One forward pass, observed: runs the model, reduces its states and attention on the device, hands over rows.

A row is a token that the model read. Rows leave as tensors with the row axis first; the caller moves them to the host.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache

from .attention import AttentionObserver, observing
from .edges import StrongestEdges
from .model import DTYPES, LoadedModel
from .sites import ATTENTION_SITES, Tap
from .summaries import AttentionRows, state_statistics


@dataclass(frozen=True)
class VectorWish:
    """Vectors of one site and layer to be stored; `scope` is None (all rows), prompt, generated or last."""

    site: str
    layer: int
    scope: str | None

    @property
    def name(self) -> str:
        return f"vector/{self.site}/{self.layer}/{self.scope or 'all'}"


def each_once(wishes: Iterable[VectorWish], *, generates: bool) -> tuple[VectorWish, ...]:
    """The same vectors without repetitions: where scopes of one site and layer overlap, the wider one stays."""
    scopes: dict[tuple[str, int], set[str | None]] = {}
    for wish in wishes:
        scopes.setdefault((wish.site, wish.layer), set()).add(wish.scope)
    found: list[VectorWish] = []
    for (site, layer), names in scopes.items():
        if None in names or {"prompt", "generated"} <= names:
            names = {None}
        elif ("generated" if generates else "prompt") in names:
            names = names - {"last"}
        found += [VectorWish(site, layer, scope) for scope in sorted(names, key=str)]
    return tuple(found)


@dataclass(frozen=True)
class Wishes:
    """What every forward pass is reduced to."""

    tokens: bool
    layers: bool
    heads: bool
    vectors: tuple[VectorWish, ...]
    store_dtype: str
    topk: int = 10
    edges: tuple[float, int] | None = None
    """Threshold and cap per head of the prompt's attention edges; None keeps none."""
    attention: bool = True
    """Whether the model's attention can be observed at all."""


def summary_sites(n_layers: int) -> list[tuple[str, int]]:
    """The (site, layer) pairs of `layer_summaries`, each compared with the one before it in this list."""
    return [("resid_pre", 0), *(("resid_post", layer) for layer in range(n_layers)), ("final_norm", n_layers - 1)]


class ObservedModel:
    """A model with its hooks on; one batch at a time passes through it."""

    def __init__(self, loaded: LoadedModel, wishes: Wishes, *, block_bytes: int) -> None:
        self.loaded = loaded
        self.wishes = wishes
        captured = {(w.site, w.layer) for w in wishes.vectors}
        summarised = (wishes.heads or wishes.layers or wishes.edges is not None) and wishes.attention
        self.attends = summarised or any(site in ATTENTION_SITES for site, _ in captured)
        self.attention = AttentionObserver(
            loaded.n_layers,
            statistics=summarised,
            capture=frozenset(site for site, _ in captured if site in ATTENTION_SITES),
            block_bytes=block_bytes,
        )
        if wishes.layers:
            captured |= set(summary_sites(loaded.n_layers))
        self.tap = Tap(loaded.anatomy, {key for key in captured if key[0] not in (*ATTENTION_SITES, "final_norm")})

    @contextmanager
    def attached(self) -> Iterator["ObservedModel"]:
        """Hooks and the observing attention are on inside the block and gone after it, also after an error."""
        with self.tap.attached():
            if not self.attends:
                yield self
                return
            with observing(self.loaded.model, self.loaded.blocks, self.attention):
                yield self

    def begin(self, pads: np.ndarray, n_prompt: np.ndarray) -> None:
        """Start a batch: left padding and prompt length of each row."""
        device = self.loaded.device
        self.pads: Int[Tensor, " batch"] = torch.from_numpy(pads).to(device)
        lengths = torch.from_numpy(n_prompt).to(device)
        thirds = (self.pads + lengths // 3, self.pads + 2 * lengths // 3)
        self._thirds = thirds if self.wishes.heads else None
        self._before: Tensor | None = None
        self._basin: tuple[Tensor, Tensor] | None = None
        self._edges = None if self.wishes.edges is None else StrongestEdges(*self.wishes.edges, self.pads)

    def keep_rows(self, rows: Tensor) -> None:
        """Forget the rows that left the batch."""
        self.pads = self.pads[rows]
        if self._before is not None:
            self._before = self._before[:, rows]

    def forward(
        self, ids: Int[Tensor, "batch pos"], mask: Tensor | None, cache: Cache, start: int, *, in_prompt: bool
    ) -> Float[Tensor, "batch pos d_model"]:
        """Read columns `start`.. of the batch; returns the final-normed states and keeps what the hooks saw."""
        columns = torch.arange(start, start + ids.shape[1], device=ids.device)
        positions = (columns.unsqueeze(0) - self.pads.unsqueeze(-1)).clamp_min(0)
        self.attention.start(self._thirds if in_prompt else None, self._edges if in_prompt else None)
        self.attention.seen = start + ids.shape[1]
        output = self.loaded.base(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        self._final: Tensor = output.last_hidden_state
        return self._final

    def rows(self, select: Tensor | None, scopes: dict[str | None, Tensor | None]) -> dict[str, Tensor]:
        """Reduce the last pass. `select`: flat indexes of the real tokens (None: all); `scopes`: the same per scope."""
        found: dict[str, Tensor] = {}
        if self.wishes.layers:
            found["states"] = self._state_rows(select)
        if self.attention.rows:
            self._attention_rows(select, found)
        for wish in self.wishes.vectors:
            if wish.scope in scopes:
                vectors = _taken(self._state(wish.site, wish.layer).flatten(0, 1), scopes[wish.scope])
                found[wish.name] = vectors.to(DTYPES[self.wishes.store_dtype])
        return found

    def _state(self, site: str, layer: int) -> Tensor:
        if site == "final_norm":
            return self._final
        return (self.attention if site in ATTENTION_SITES else self.tap).states[site, layer]

    def _state_rows(self, select: Tensor | None) -> Float[Tensor, "row site statistic"]:
        stacked = torch.stack([self._state(site, layer) for site, layer in summary_sites(self.loaded.n_layers)])
        statistics = state_statistics(stacked, self._before)
        self._before = stacked[:, :, -1]
        return _taken(statistics.flatten(2).permute(2, 1, 0), select)

    def _attention_rows(self, select: Tensor | None, found: dict[str, Tensor]) -> None:
        layers = [self.attention.rows[layer] for layer in range(self.loaded.n_layers)]
        entropy, weight = (_by_row(layers, name, select) for name in ("entropy_bits", "max_weight"))
        if self.wishes.layers:
            found["attention"] = torch.stack(
                [reduce(values) for values in (entropy, weight) for reduce in (_mean, _smallest, _largest)], dim=-1
            )
        if self.wishes.heads:
            found["head_entropy"], found["head_weight"] = entropy, weight
            found["head_key"] = self._key_positions(layers, select)
            n_keys = torch.stack([self.attention.n_keys[layer] for layer in range(len(layers))], dim=-1)
            found["n_keys"] = _taken(n_keys.flatten(0, 1).to(torch.int32), select)
        if self._thirds is not None and layers[0].middle is not None:
            self._add_basin(layers)

    def _key_positions(self, layers: list[AttentionRows], select: Tensor | None) -> Int[Tensor, "row layer head"]:
        """Key indexes as positions in the sequence: a sliding cache starts late, a padded row starts later."""
        index = torch.stack([rows.max_index for rows in layers])
        lengths = [self.attention.key_lengths[layer] for layer in range(len(layers))]
        first = torch.tensor([self.attention.seen - length for length in lengths], device=index.device)
        position = index + first[:, None, None, None] - self.pads[None, :, None, None]
        return _taken(position.permute(1, 3, 0, 2).flatten(0, 1).to(torch.int32), select)

    def _add_basin(self, layers: list[AttentionRows]) -> None:
        """Add this chunk's prompt attention on the middle third, and all of it, `[layer batch head]`."""
        middle = torch.stack([rows.middle for rows in layers])  # type: ignore[arg-type]
        total = torch.stack([rows.total for rows in layers])
        columns = torch.arange(self.attention.seen - middle.shape[-1], self.attention.seen, device=middle.device)
        real = (columns.unsqueeze(0) >= self.pads.unsqueeze(-1))[None, :, None, :]
        sums = (torch.where(real, middle, 0.0).sum(-1), torch.where(real, total, 0.0).sum(-1))
        if self._basin is not None:
            sums = (sums[0] + self._basin[0], sums[1] + self._basin[1])
        self._basin = sums

    def prompt_edges(self) -> dict[str, Tensor] | None:
        """The kept attention edges of the whole prompt, once it has been read."""
        return self._edges.rows() if self._edges is not None and self._edges.best else None

    def basin_ratio(self) -> Float[Tensor, "batch layer head"] | None:
        """Weight on the middle third of the prompt over the weight elsewhere, summed over its queries."""
        if self._basin is None:
            return None
        middle, total = self._basin
        return (middle / (total - middle + 1e-10)).permute(1, 0, 2)


def attention_is_observable(loaded: LoadedModel) -> bool:
    """Whether every layer's attention passes through transformers' AttentionInterface; tried with one short pass."""
    observer = AttentionObserver(loaded.n_layers, statistics=True, capture=frozenset(), block_bytes=2**20)
    try:
        with observing(loaded.model, loaded.blocks, observer):
            loaded.probe()
    except (ValueError, KeyError, AttributeError):
        # Architectures that choose their attention class by name refuse or ignore a name they do not know.
        return False
    return len(observer.rows) == loaded.n_layers


def _taken(rows: Tensor, select: Tensor | None) -> Tensor:
    return rows if select is None else rows[select]


def _by_row(layers: list[AttentionRows], name: str, select: Tensor | None) -> Float[Tensor, "row layer head"]:
    stacked = torch.stack([getattr(rows, name) for rows in layers])
    return _taken(stacked.permute(1, 3, 0, 2).flatten(0, 1), select)


def _mean(values: Tensor) -> Tensor:
    return values.mean(-1)


def _smallest(values: Tensor) -> Tensor:
    return values.amin(-1)


def _largest(values: Tensor) -> Tensor:
    return values.amax(-1)
