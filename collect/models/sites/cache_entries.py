"""Where a block's keys and values enter the cache: changed before they are stored, once, at the positions just read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

States = Float[Tensor, "batch head pos d_head"]
EntryChange = Callable[[States, States], tuple[States, States]]
"""Of the keys and values of new positions."""


@contextmanager
def changing_entries(block: nn.Module, change: EntryChange) -> Iterator[None]:
    """Let the cache that the block is called with take what `change` makes of its keys and values.

    Of an encoder-decoder cache that is the part of the decoder's own tokens. What was attached last comes first.
    """
    open_calls: list[tuple[Cache, bool]] = []

    def enter(module: nn.Module, args: tuple, kwargs: Mapping[str, object]) -> None:
        cache = _cache_among(args, kwargs)
        if cache is None:
            return
        was_changed, store = "update" in vars(cache), cache.update

        def update(keys: Tensor, values: Tensor, *place: object, **options: object) -> tuple[Tensor, Tensor]:
            return store(*change(keys, values), *place, **options)  # type: ignore[arg-type]

        update.inner = store  # type: ignore[attr-defined]
        cache.update = update  # type: ignore[method-assign]
        open_calls.append((cache, was_changed))

    def leave(module: nn.Module, args: tuple, output: object) -> None:
        if not open_calls:
            return
        cache, was_changed = open_calls.pop()
        if was_changed:
            cache.update = cache.update.inner  # type: ignore[method-assign, attr-defined]
        else:
            del cache.update

    handles = (
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.register_forward_hook(leave, prepend=True, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cache_among(args: tuple, kwargs: Mapping[str, object]) -> Cache | None:
    for given in (*args, *kwargs.values()):
        if isinstance(given, EncoderDecoderCache):
            return given.self_attention_cache
        if isinstance(given, Cache):
            return given
    return None
