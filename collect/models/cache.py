"""A key-value cache that writes new keys in place instead of copying all of them at every step."""

import sys

from torch import Tensor, nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

LEAST_ROOM = 64
GROWTH = 4  # a full layer gets a quarter more room


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, `[batch head pos d_head]`, as views of buffers with room for more positions.

    A concatenation per step would copy everything read so far.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Empty keys and values; the buffers come with the first update."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.room: tuple[Tensor, Tensor] | None = None
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append along the position axis; returns all keys and values, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        used = self.keys.shape[2]
        end = used + key_states.shape[2]
        if not self._fits(end):
            self.room = (_roomier(self.keys, end, key_states), _roomier(self.values, end, value_states))
        assert self.room is not None
        for buffer, new in zip(self.room, (key_states, value_states), strict=True):
            buffer[:, :, used:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self.room)
        return self.keys, self.values

    def _fits(self, end: int) -> bool:
        """Whether the buffers are those of the present keys (selecting rows makes new ones) and long enough."""
        if self.room is None or self.keys is None:
            return False
        return self.room[0].shape[2] >= end and self.room[0].data_ptr() == self.keys.data_ptr()


def _roomier(old: Tensor, end: int, like: Tensor) -> Tensor:
    """A buffer that holds `old` and has room for `end` positions and more."""
    batch, n_heads, _, d_head = like.shape
    buffer = like.new_empty(batch, n_heads, end + max(LEAST_ROOM, end // GROWTH), d_head)
    buffer[:, :, : old.shape[2]] = old
    return buffer


WINDOW_MASKS = ("create_sliding_window_causal_mask", "create_chunked_causal_mask", "create_masks_for_generate")


def growing_cache(config: PreTrainedConfig, stack: nn.Module) -> DynamicCache:
    """An empty cache; layers with a sliding window, or with a kind of cache of their own, keep it.

    A configuration may name a window that the stack knows nothing of (Moshi): then no key may be dropped.
    """
    cache = DynamicCache(config=config)
    source = sys.modules[type(stack).__module__]
    kinds = (
        (DynamicLayer,)
        if any(hasattr(source, name) for name in WINDOW_MASKS)
        else (DynamicLayer, DynamicSlidingWindowLayer)
    )
    cache.layers = [RoomyLayer() if type(layer) in kinds else layer for layer in cache.layers]
    return cache


def in_full_layers(cache: Cache) -> Cache | None:
    """An empty cache like this one that forgets no position; None if its layers hold anything but keys and values."""
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    if any(type(layer) not in (RoomyLayer, DynamicLayer, DynamicSlidingWindowLayer) for layer in own.layers):
        return None
    own.layers[:] = [RoomyLayer() for _ in own.layers]
    return cache


def encoder_decoder_cache(n_layers: int) -> EncoderDecoderCache:
    """An empty cache for a decoder that reads an encoder: the keys of its own tokens grow, the others stay."""
    own = DynamicCache()
    own.layers.extend(RoomyLayer() for _ in range(n_layers))
    return EncoderDecoderCache(own, DynamicCache())


def select_rows(cache: Cache, rows: Tensor) -> None:
    """Go on with these rows of the batch, which may be repeated.

    Layers that hold a state instead of keys, or beside them, have no selection, but the reordering of beam search does
    the same for every kind of layer.
    """
    cache.reorder_cache(rows)  # type: ignore[arg-type]
