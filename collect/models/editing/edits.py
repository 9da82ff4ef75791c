"""Edits: hooks that put other states in the place of a site's while a model runs (definitions A4a).

They come before every hook that reads, so that what is observed is what was edited. Every row of a batch may have its
own. `applied` is the short form for plain passes.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ....lake.errors import ConfigError
from ...configuration.edit import EDIT_SCOPES, HEAD_SITES, UNIT_SITES
from ..model import LoadedModel
from ..site_widths import heads_of_site, site_width
from ..sites.places import Place
from ..sites.site_names import ATTENTION_SITES, CROSS_SITES, SUMS, check_site
from ..sites.sums import replace_sum
from ..stack import CROSS, DECODER, Stack
from .attention_edits import AttentionEdits
from .changes import Change, States


@dataclass(frozen=True, eq=False)
class Edit:
    """One change of one site at one layer. `units`: the only neurons or heads of its states that change."""

    site: str
    layer: int
    change: Change
    scope: str = "all"
    units: tuple[int, ...] | None = None
    stack: str = DECODER
    direction: str | None = None
    """Where its vector comes from, for whoever reads run.json."""

    def __post_init__(self) -> None:
        check_site(self.site)
        if self.scope not in EDIT_SCOPES:
            raise ConfigError(f"An edit's scope is one of {', '.join(EDIT_SCOPES)}, not {self.scope!r}.")
        if self.units is not None and self.site not in UNIT_SITES:
            raise ConfigError(
                f"Site {self.site} has no units: neurons are chosen of mlp_post, heads of {', '.join(HEAD_SITES)}."
            )

    def describe(self) -> dict[str, object]:
        """What it does, for run.json."""
        place = {"site": self.site, "layer": self.layer, "stack": self.stack, "scope": self.scope}
        units = {} if self.units is None else {"units": list(self.units)}
        named = {} if self.direction is None else {"direction": self.direction}
        return {**place, **units, **named, **self.change.describe()}

    @cached_property
    def digest(self) -> str:
        """Equal for edits that do the same."""
        text = json.dumps(self.describe(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def check(self, loaded: LoadedModel) -> None:
        """ConfigError if the model has no such place, or its states another width."""
        stack = next((stack for stack in loaded.stacks if stack.name == self.stack), None)
        if stack is None:
            raise ConfigError(f"{loaded.name} has no {self.stack}: only encoder-decoder models have one.")
        if self.site in CROSS_SITES and CROSS not in stack.kinds:
            raise ConfigError(f"Site {self.site} exists only in the decoder of an encoder-decoder model.")
        if not 0 <= self.layer < stack.n_layers:
            raise ConfigError(
                f"There is no layer {self.layer}: the {stack.name} has {stack.n_layers} layers, 0 to "
                f"{stack.n_layers - 1}."
            )
        if self.site == "final_norm" and self.layer != stack.n_layers - 1:
            raise ConfigError(f"Site final_norm stands behind the last layer, {stack.n_layers - 1}.")
        width, n_units = site_width(loaded, stack, self.site), heads_of_site(stack, self.site)
        if self.site in ATTENTION_SITES and not loaded.is_shell:
            n_units, d_head = loaded.attention_inputs[stack.name].shape(self.site, self.layer)
            width = n_units * d_head
        elif self.site != "final_norm" and not loaded.is_shell:
            anatomy = stack.anatomy
            anatomy.summands(self.site, self.layer) if self.site in SUMS else anatomy.place(self.site, self.layer)
        if self.change.width not in (None, width):
            raise ConfigError(
                f"The vector of an edit has {self.change.width} elements, {self.site} of {loaded.name} has {width}."
            )
        if self.units is not None:
            self._elements(width, n_units)

    def bound(self, width: int, n_heads: int) -> "BoundEdit":
        """The edit for states of this width, of so many heads where the site has any."""
        if self.change.width not in (None, width):
            raise ConfigError(f"The vector of an edit has {self.change.width} elements, {self.site} here {width}.")
        if self.units is None:
            return BoundEdit(self.scope, self.change, None)
        elements = torch.from_numpy(self._elements(width, n_heads))
        return BoundEdit(self.scope, self.change.of(elements), elements)

    def _elements(self, width: int, n_heads: int) -> np.ndarray:
        """Which elements of a state belong to the units."""
        assert self.units is not None
        n_units = width if self.site == "mlp_post" else n_heads
        name = UNIT_SITES[self.site]
        for unit in self.units:
            if not 0 <= unit < n_units:
                raise ConfigError(f"There is no {name[:-1]} {unit}: {self.site} has {n_units} {name}.")
        size = width // n_units
        return (np.array(self.units)[:, None] * size + np.arange(size)).reshape(-1)


@dataclass(frozen=True)
class BoundEdit:
    """An edit that knows the width of what it changes."""

    scope: str
    change: Change
    elements: Tensor | None

    def __call__(self, states: States) -> States:
        if self.elements is None:
            return self.change(states)
        elements = self.elements.to(states.device)
        changed = states.clone()
        changed[..., elements] = self.change(states[..., elements])
        return changed


class Editing:
    """The edits of the rows of one batch in one stack, and which of its positions the next pass reads."""

    def __init__(self, stack: Stack, recipes: Sequence[Sequence[Edit]]) -> None:
        """One recipe per row of the batch; a single one is for every row of any batch."""
        self.stack = stack
        own = [tuple(edit for edit in recipe if edit.stack == stack.name) for recipe in recipes]
        self._distinct = list({tuple(edit.digest for edit in recipe): recipe for recipe in own}.values())
        names = [tuple(edit.digest for edit in recipe) for recipe in self._distinct]
        self._recipes = np.array([names.index(tuple(edit.digest for edit in recipe)) for recipe in own])
        self._recipe_of = self._recipes
        self._bound: dict[tuple[str, int], BoundEdit] = {}
        self._places: tuple[np.ndarray, np.ndarray] | None = None
        self._masks: dict[str, np.ndarray] = {}

    def __bool__(self) -> bool:
        return any(self._distinct)

    def expect(self, positions: np.ndarray, n_prompt: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Say where the columns of the next passes stand, `[row column]`, and how long the prompt of each row is.

        `rows`: whose recipe each row of the passes has, where they are not all of them in their order.
        """
        self._places, self._masks = (positions, n_prompt), {}
        self._recipe_of = self._recipes if rows is None else self._recipes[rows]

    @contextmanager
    def attached(self) -> Iterator["Editing"]:
        """The hooks are in place inside the block only."""
        sites = {(edit.site, edit.layer) for recipe in self._distinct for edit in recipe}
        of_attention = {key for key in sites if key[0] in ATTENTION_SITES}
        with ExitStack() as entered:
            # What comes last is called first: a sum is complete once its parts have been edited.
            for site, layer in sorted(sites - of_attention, key=lambda key: (key[0] not in SUMS, key)):
                for handle in self._hooks(site, layer):
                    entered.callback(handle.remove)
            for layer in sorted({layer for _, layer in of_attention}):
                names = {site for site, at in of_attention if at == layer}
                change = partial(self._edited, layer=layer)
                entered.enter_context(AttentionEdits(self.stack, layer, names, change).attached())
            yield self

    def _hooks(self, site: str, layer: int) -> Iterator[RemovableHandle]:
        def change(states: Tensor) -> Tensor:
            return self._edited(site, states, self.stack.n_heads, layer=layer)

        if site == "final_norm":
            yield Place(self.stack.module, is_input=False).replace(change)
        elif site in SUMS:
            yield from replace_sum(self.stack.anatomy, site, layer, change)
        else:
            yield self.stack.anatomy.place(site, layer).replace(change)

    def _edited(self, site: str, states: States, n_heads: int, *, layer: int) -> States:
        for number, recipe in enumerate(self._distinct):
            for edit in recipe:
                if (edit.site, edit.layer) != (site, layer):
                    continue
                members = self._members(edit.scope, number, states.shape)
                if members.all():
                    states = self._of_width(edit, states.shape[-1], n_heads)(states)
                elif members.any():
                    index = torch.from_numpy(np.flatnonzero(members)).to(states.device)
                    flat = states.flatten(0, 1)
                    changed = self._of_width(edit, states.shape[-1], n_heads)(flat[index])
                    states = flat.index_copy(0, index, changed).view_as(states)
        return states

    def _of_width(self, edit: Edit, width: int, n_heads: int) -> BoundEdit:
        key = (edit.digest, width)
        if key not in self._bound:
            self._bound[key] = edit.bound(width, n_heads)
        return self._bound[key]

    def _members(self, scope: str, recipe: int, shape: torch.Size) -> np.ndarray:
        """Which rows and columns of a pass change, `[row column]`."""
        inside = self._inside(scope, (shape[0], shape[1]))
        if len(self._distinct) == 1:
            return inside
        if len(self._recipe_of) != shape[0]:
            raise ConfigError(f"Edits were given for {len(self._recipe_of)} rows, but the batch has {shape[0]}.")
        return inside & (self._recipe_of == recipe)[:, None]

    def _inside(self, scope: str, shape: tuple[int, int]) -> np.ndarray:
        if scope == "all":
            return np.ones(shape, dtype=bool)
        if self._places is None:
            raise ConfigError(f"An edit of scope {scope} must be told which positions are read (`Editing.expect`).")
        if scope not in self._masks:
            positions, n_prompt = self._places
            edge = (n_prompt - 1)[:, None]
            inside = {"prompt": positions <= edge, "generated": positions >= edge, "last": positions == edge}[scope]
            self._masks[scope] = inside & (positions >= 0)
        if self._masks[scope].shape != shape:
            raise ConfigError(
                f"An edit of scope {scope} expected a pass over {list(self._masks[scope].shape)} tokens and saw one "
                f"over {list(shape)}. Use scope all, or say which positions are read (`Editing.expect`)."
            )
        return self._masks[scope]


@contextmanager
def applied(
    loaded: LoadedModel,
    edits: Sequence[Edit] | Sequence[Sequence[Edit]],
    *,
    n_prompt: int | Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
) -> Iterator[None]:
    """Inside the block every pass of the model is edited; for passes over whole sequences, without a cache.

    Args: edits for every row, or one sequence of them per row of the batch; for scopes other than `all` how many
    tokens of each row are prompt (None: all of them; a decoder beside an encoder counts its own) and how many columns
    on its left are padding (None: none).
    """
    by_row = bool(edits) and not isinstance(edits[0], Edit)
    recipes: Sequence[Sequence[Edit]] = edits if by_row else [edits]  # type: ignore[assignment]
    for edit in (edit for recipe in recipes for edit in recipe):
        edit.check(loaded)
    with ExitStack() as entered:
        for stack in loaded.stacks:
            editing = _Plain(stack, recipes, n_prompt if stack is loaded.decoder else None, pads)
            if editing:
                entered.enter_context(editing.attached())
        yield


class _Plain(Editing):
    """Edits of passes that begin at the first token; their number of columns is known when they come."""

    def __init__(
        self,
        stack: Stack,
        recipes: Sequence[Sequence[Edit]],
        n_prompt: int | Sequence[int] | None,
        pads: Sequence[int] | None,
    ) -> None:
        super().__init__(stack, recipes)
        self._n_prompt, self._pads = n_prompt, pads

    def _inside(self, scope: str, shape: tuple[int, int]) -> np.ndarray:
        n_rows, n_columns = shape
        pads = np.zeros(n_rows, np.int64) if self._pads is None else np.asarray(self._pads)
        n_prompt = n_columns - pads if self._n_prompt is None else np.broadcast_to(self._n_prompt, n_rows)
        self.expect(np.arange(n_columns) - pads[:, None], n_prompt)
        return super()._inside(scope, shape)
