"""What stands where a model calls its attention function: first what changes queries, keys and values, then what looks.

It is registered with transformers' AttentionInterface under the name that the model uses anyway: there are models that
compute otherwise where they do not know the name.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn
from transformers.modeling_utils import AttentionInterface

from ....lake.values import Json
from .attached import Attached

HeadStates = Float[Tensor, "batch head pos d_head"]
"""Keys and values with their own number of heads, of all positions that are remembered."""
AttentionChange = Callable[[HeadStates, HeadStates, HeadStates], tuple[HeadStates, HeadStates, HeadStates]]
"""Of queries, keys and values."""
Output = Tensor | tuple[Tensor, Tensor | None]


class AttentionWatcher(Protocol):
    """What looks at the attention of layers: at what goes in, then at what has come out."""

    def observe(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Json
    ) -> None: ...

    def prove(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Json, output: Output
    ) -> None: ...


_changes: Attached[AttentionChange] = Attached()
_watchers: Attached[tuple[AttentionWatcher, int]] = Attached()


@contextmanager
def watching_attention(model: nn.Module, modules: Mapping[nn.Module, tuple[AttentionWatcher, int]]) -> Iterator[None]:
    """Show the attention calls of these modules to their watcher, as those of the layer given, inside the block.

    Of several watchers of a module the one that was attached last sees.
    """
    with _standing_in((model, *modules)), _watchers.attaching(modules):
        yield


@contextmanager
def changing_attention(modules: Iterable[nn.Module], change: AttentionChange) -> Iterator[None]:
    """Let these modules attend with what `change` makes of queries, keys and values, inside the block.

    What was attached last comes first, and all of it before what watches.
    """
    changed = dict.fromkeys(modules, change)
    with _standing_in(changed), _changes.attaching(changed):
        yield


@contextmanager
def _standing_in(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Our function under the names of what the modules compute with; within another such block that one stays."""
    names = {name for module in modules if (name := _implementation(module)) is not None}
    mapping = AttentionInterface._global_mapping
    before = {name: mapping.get(name) for name in names}
    before = {name: computing for name, computing in before.items() if not hasattr(computing, "stands_in")}
    for name, computing in before.items():
        AttentionInterface.register(name, _stand_in(name, computing))
    try:
        yield
    finally:
        for name, computing in before.items():
            if computing is None:
                del mapping[name]
            else:
                AttentionInterface.register(name, computing)


def _stand_in(name: str, computing: Callable | None) -> Callable:
    """The attention function that stands in for `name`: change, look, then compute as before (None: eagerly)."""

    def forward(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options):
        compute = computing or sys.modules[type(module).__module__].eager_attention_forward
        for change in _changes.of(module):
            query, key, value = change(query, key, value)
        watchers = _watchers.of(module)
        if not watchers:
            return compute(module, query, key, value, attention_mask, **options)
        watcher, layer = watchers[0]
        watcher.observe(layer, query, key, value, attention_mask, options)
        output = compute(module, query, key, value, attention_mask, **options)
        watcher.prove(layer, query, key, value, attention_mask, options, output)
        return output

    forward.__name__ = name
    forward.stands_in = True  # type: ignore[attr-defined]
    return forward


def _implementation(module: nn.Module) -> str | None:
    return getattr(getattr(module, "config", None), "_attn_implementation", None)
