"""One forward pass, observed: runs a stack, reduces its states and attention on the device, hands over rows.

A row is a token that the stack read. Rows leave as tensors with the row axis first; the caller moves them to the host.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.model import DTYPES, LoadedModel
from ..models.sites.site_names import ATTENTION_SITES
from ..models.sites.taps import Tap
from ..models.stack import CROSS, DECODER, SELF, Stack
from .attention import AttentionObserver, observing
from .axis import Axis, columns_of
from .budget import Budget
from .edges import QueryEdges, StrongestEdges
from .kept import Kept, summary_sites
from .patterns import Patterns, QueryWeights, heads_of
from .summaries import AttentionRows, state_statistics


class ObservedStack:
    """A stack with its hooks on; one batch at a time passes through it.

    Of a long pass, as many positions are reduced at once as stay in the processor's cache.
    """

    def __init__(self, stack: Stack, kept: Kept, budget: Budget) -> None:
        self.stack = stack
        self.kept = kept
        self.vectors = kept.vectors_of(stack.name)
        self.block_bytes = budget.block_bytes
        self.sites = summary_sites(stack.n_layers)
        captured = {(w.site, w.layer) for w in self.vectors}
        self.observers = {
            kind: AttentionObserver(
                kind,
                causal=stack.is_causal,
                statistics=kept.summarises_attention,
                capture=frozenset(site for site, _ in captured if site in ATTENTION_SITES and kind == SELF),
                block_bytes=budget.block_bytes,
            )
            for kind in stack.kinds
        }
        if kept.layers:
            captured |= set(self.sites)
        self.tap = Tap(stack.anatomy, {key for key in captured if key[0] not in (*ATTENTION_SITES, "final_norm")})

    def observed_modules(self) -> dict[torch.nn.Module, tuple[AttentionObserver, int]]:
        """The modules whose attention is observed, with observer and layer."""
        watched = {kind for kind, observer in self.observers.items() if observer.statistics or observer.capture}
        found = self.stack.attention_modules().items()
        return {module: (self.observers[kind], layer) for module, (kind, layer) in found if kind in watched}

    def begin(self, axis: Axis, read: Axis | None = None) -> None:
        """Start a batch: where its columns stand, and those of the encoder that it reads."""
        self.axis = axis
        self._keys = {SELF: axis, CROSS: axis if read is None else read}
        surveys = CROSS if CROSS in self.observers else SELF
        heads = self.kept.heads and self.kept.prompt
        self._thirds = axis.middle_third() if heads and surveys == SELF else None
        self._before: list[Tensor] | None = None
        self._basin: tuple[Tensor, Tensor] | None = None
        self._edges: dict[str, StrongestEdges] = {}
        self._queries = QueryWeights({}, {})
        if self.kept.edges is not None:
            # A decoder that reads an encoder has one prompt token, which sees itself alone.
            self._edges = {surveys: StrongestEdges(*self.kept.edges, axis, self._keys[surveys])}

    def keep_rows(self, rows: Tensor, axis: Axis, read: Axis) -> None:
        """Forget the rows that left the batch, whose columns now stand there."""
        self.axis, self._keys = axis, {SELF: axis, CROSS: read}
        if self._before is not None:
            self._before = [states[:, rows] for states in self._before]

    @property
    def last_states(self) -> list[Tensor] | None:
        """What the next token of each row is compared with."""
        return self._before

    def join(self, before: list[Tensor] | None, axis: Axis, read: Axis) -> None:
        """Go on with rows that passed before, of which `before` are the last states, beside those of now."""
        self.axis, self._keys = axis, {SELF: axis, CROSS: read}
        if before is not None and self._before is not None:
            self._before = [torch.cat(pair, dim=1) for pair in zip(before, self._before, strict=True)]

    def forward(
        self, start: int, end: int, *, in_prompt: bool, again: int = 0, **inputs: Any
    ) -> Float[Tensor, "batch pos d_model"]:
        """Read columns start..end of the batch; returns their final-normed states and keeps what the hooks saw.

        `inputs` is what the stack's forward takes; it reads `again` columns before `start` once more.
        """
        self._again = again
        self._queries = self._query_weights(end, in_prompt=in_prompt)
        for kind, observer in self.observers.items():
            thirds = self._thirds if in_prompt and kind == SELF else None
            edges = [self._edges[kind]] if in_prompt and kind in self._edges else []
            observer.start(end, thirds, [*edges, *self._queries.takers(kind)])
        self._final: Tensor = self.stack.module(**inputs).last_hidden_state
        if again:
            self._final = self._final[:, again:]
            self.tap.skip(again)
            for observer in self.observers.values():
                observer.skip(again)
        return self._final

    def _query_weights(self, end: int, *, in_prompt: bool) -> QueryWeights:
        """What takes the weights of single queries in the coming pass, which ends before column `end`."""
        if not (self.kept.query_edges or self.kept.patterns):
            return QueryWeights({}, {})
        # Tokens that are given are read with the prompt and belong to the completion.
        axis, has_given = self.axis, self.stack.name == DECODER
        behind = not in_prompt or (has_given and bool((end - 1 + axis.origin >= axis.n_prompt).any()))
        scopes = ["prompt"] * in_prompt + ["generated"] * behind
        heads = heads_of(self.kept.patterns, self.stack.name, scopes)
        keys = {kind: self._keys[kind] for kind in self.observers}
        return QueryWeights(
            {k: QueryEdges(*self.kept.query_edges, axis, keys[k]) for k in keys if behind and self.kept.query_edges},
            {k: Patterns(heads, keys[k]) for k in keys if heads},
        )

    def pass_over(self, start: int, end: int, *, again: int = 0, **inputs: Any) -> Tensor:
        """Read columns start..end of the batch without observing them."""
        before = {kind: observer.statistics for kind, observer in self.observers.items()}
        for observer in self.observers.values():
            observer.statistics = False
        try:
            states = self.forward(start, end, in_prompt=False, again=again, **inputs)
        finally:
            for kind, observer in self.observers.items():
                observer.statistics = before[kind]
        if self.kept.layers:
            last = [self._state(site, layer)[:, -1] for site, layer in self.sites]
            self._before = [torch.stack(alike) for alike in of_one_width(last)]
        return states

    def forget(self) -> None:
        """Let go of the states of the last pass: nobody reads them any more, and they are large."""
        self.tap.states.clear()
        for observer in self.observers.values():
            observer.start(0)

    def rows(self, select: Tensor | None, scopes: dict[str | None, Tensor | None]) -> dict[str, Tensor]:
        """Reduce the last pass. `select`: flat indexes of the real tokens (None: all); `scopes`: the same per scope."""
        found: dict[str, Tensor] = {}
        if self.kept.layers:
            found["states"] = self._state_rows(select)
        for kind, observer in self.observers.items():
            if observer.rows:
                self._attention_rows(kind, observer, select, found)
                numbers = self.kept.attention.layers_of(self.stack, kind)
                found |= self._queries.rows(kind, numbers, select, again=self._again)
        for item in self.vectors:
            if item.scope in scopes:
                vectors = _taken(self._state(item.site, item.layer).flatten(0, 1), scopes[item.scope])
                found[item.name] = vectors.to(DTYPES[self.kept.store_dtype])
                if narrows(vectors.dtype, found[item.name].dtype):
                    found[item.lost] = largest_lost(vectors, found[item.name])
        return found

    def _state(self, site: str, layer: int) -> Tensor:
        if site == "final_norm":
            return self._final
        return (self.observers[SELF] if site in ATTENTION_SITES else self.tap).states[site, layer]

    def _state_rows(self, select: Tensor | None) -> Float[Tensor, "row site statistic"]:
        groups = of_one_width([self._state(site, layer) for site, layer in self.sites])
        before: list[Tensor | None] = [None] * len(groups) if self._before is None else [*self._before]
        statistics = []
        for number, group in enumerate(groups):
            pieces = []
            for part in zip(*(state.split(self._columns_at_once(group), dim=1) for state in group), strict=True):
                stacked = torch.stack(part)
                pieces.append(state_statistics(stacked, before[number]))
                before[number] = stacked[:, :, -1]
            statistics.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1))
        self._before = [states for states in before if states is not None]
        joined = statistics[0] if len(statistics) == 1 else torch.cat(statistics, dim=1)
        return _taken(joined.flatten(2).permute(2, 1, 0), select)

    def _columns_at_once(self, states: list[Tensor]) -> int:
        """How many positions of these states are reduced together: as many as stay in the processor's cache."""
        column_bytes = 4 * sum(state.shape[0] * state.shape[-1] for state in states)
        return max(1, self.block_bytes // max(1, column_bytes))

    def _attention_rows(
        self, kind: str, observer: AttentionObserver, select: Tensor | None, found: dict[str, Tensor]
    ) -> None:
        numbers = self.kept.attention.layers_of(self.stack, kind)
        layers = [observer.rows[layer] for layer in numbers]
        entropy, weight = (_by_row(layers, name, select) for name in ("entropy_bits", "max_weight"))
        if self.kept.layers and kind == SELF:
            found["attention"] = torch.stack(
                [reduce(values) for values in (entropy, weight) for reduce in (_mean, _smallest, _largest)], dim=-1
            )
        if self.kept.heads:
            found[f"{kind}/entropy"], found[f"{kind}/weight"] = entropy, weight
            found[f"{kind}/key"] = self._key_positions(kind, observer, layers, select)
            n_keys = torch.stack([observer.n_keys[layer] for layer in numbers], dim=-1)
            found[f"{kind}/n_keys"] = _taken(n_keys.flatten(0, 1).to(torch.int32), select)
        if layers[0].middle is not None:
            self._add_basin(observer, layers)

    def _key_positions(
        self, kind: str, observer: AttentionObserver, layers: list[AttentionRows], select: Tensor | None
    ) -> Int[Tensor, "row layer head"]:
        """Key indexes as positions in the sequence: a sliding cache starts late, a padded row starts later."""
        index = torch.stack([rows.max_index for rows in layers])
        lengths = [observer.key_lengths[layer] for layer in self.kept.attention.layers_of(self.stack, kind)]
        first = torch.tensor([observer.first_key(length) for length in lengths], device=index.device)
        position = index + first[:, None, None, None] + self._keys[kind].origin[None, :, None, None]
        return _taken(position.permute(1, 3, 0, 2).flatten(0, 1).to(torch.int32), select)

    def _add_basin(self, observer: AttentionObserver, layers: list[AttentionRows]) -> None:
        """Add this chunk's prompt attention on the middle third, and all of it, `[layer batch head]`."""
        middle = torch.stack([rows.middle for rows in layers])  # type: ignore[arg-type]
        total = torch.stack([rows.total for rows in layers])
        n_query = middle.shape[-1]
        real = self.axis.in_prompt(columns_of(n_query, observer.seen - n_query, middle.device))[None, :, None, :]
        sums = (torch.where(real, middle, 0.0).sum(-1), torch.where(real, total, 0.0).sum(-1))
        if self._basin is not None:
            sums = (sums[0] + self._basin[0], sums[1] + self._basin[1])
        self._basin = sums

    def prompt_edges(self) -> dict[str, dict[str, Tensor]]:
        """The kept attention edges of the whole prompt by kind of attention, once it has been read."""
        return {kind: edges.rows() for kind, edges in self._edges.items() if edges.best}

    def basin_ratio(self) -> Float[Tensor, "batch layer head"] | None:
        """Weight on the middle third of the prompt over the weight elsewhere, summed over its queries."""
        if self._basin is None:
            return None
        middle, total = self._basin
        return (middle / (total - middle + 1e-10)).permute(1, 0, 2)


class ObservedModel:
    """A model with its hooks on: a stack that predicts tokens and, in some, one that reads the prompt before it."""

    def __init__(self, loaded: LoadedModel, kept: Kept, budget: Budget) -> None:
        self.loaded = loaded
        self.kept = kept
        stacks = [ObservedStack(stack, kept, budget) for stack in loaded.stacks]
        self.decoder = stacks[-1]
        self.encoder = stacks[0] if len(stacks) == 2 else None
        self.stacks = tuple(stacks)

    @contextmanager
    def attached(self) -> Iterator["ObservedModel"]:
        """Hooks and the observing attention are on inside the block and gone after it, also after an error."""
        modules = {module: to for stack in self.stacks for module, to in stack.observed_modules().items()}
        with ExitStack() as entered:
            for stack in self.stacks:
                entered.enter_context(stack.tap.attached())
            if modules:
                entered.enter_context(observing(self.loaded.model, modules))
            yield self


def narrows(computed: torch.dtype, stored: torch.dtype) -> bool:
    """Whether a finite number of one format may be too large for the other."""
    return torch.finfo(computed).max > torch.finfo(stored).max


def largest_lost(vectors: Float[Tensor, "row d"], stored: Float[Tensor, "row d"]) -> Float[Tensor, ""]:
    """The largest finite size among the values that became infinite when they were stored; 0 if none did."""
    if vectors.numel() == 0:
        return torch.zeros((), device=vectors.device)
    lost = stored.isinf() & vectors.isfinite()
    return torch.where(lost, vectors, 0.0).abs().amax().float()


def of_one_width(states: list[Tensor]) -> list[list[Tensor]]:
    """Consecutive states of equal width together.

    A model may project its final state to another width (OPT 350m), which then is compared with none below it.
    """
    groups: list[list[Tensor]] = []
    for state in states:
        if groups and groups[-1][0].shape[-1] == state.shape[-1]:
            groups[-1].append(state)
        else:
            groups.append([state])
    return groups


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
