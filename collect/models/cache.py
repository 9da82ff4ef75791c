"""A key-value cache that writes new keys in place instead of copying all of them at every step."""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)
from transformers.configuration_utils import PreTrainedConfig

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


JOINING_LAYERS = (
    RoomyLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)
"""Layers of which each row can be taken from one cache into another."""
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
    own = _own(cache)
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


def can_join(cache: Cache) -> bool:
    """Whether the rows of two caches can be put together: layers hold keys and values, or states of whole rows."""
    return all(type(layer) in JOINING_LAYERS for layer in _own(cache).layers)


def keep_columns(cache: Cache, width: int) -> None:
    """Go on with the last `width` columns of what was read, as if no other had been."""
    for layer in _own(cache).layers:
        if isinstance(layer, CacheLayerMixin) and layer.is_initialized:
            n = _held(layer, width)
            keys, values = _states(layer)
            layer.keys, layer.values = keys[:, :, -n:], values[:, :, -n:]
            _count(layer, width)


def join_caches(cache: Cache, other: Cache, width: int) -> None:
    """Put the rows of another cache behind the rows of one, the last `width` columns of both beside each other.

    Where a cache has fewer columns, its rows are padded on the left; what was read of an encoder is on the right.
    """
    for layer, joining in zip(_own(cache).layers, _own(other).layers, strict=True):
        if isinstance(layer, CacheLayerMixin) and isinstance(joining, CacheLayerMixin) and layer.is_initialized:
            _join(layer, joining, width)
        if isinstance(layer, LinearAttentionLayer) and isinstance(joining, LinearAttentionLayer):
            _join_states(layer, joining)
    if isinstance(cache, EncoderDecoderCache) and isinstance(other, EncoderDecoderCache):
        crossing = (cache.cross_attention_cache.layers, other.cross_attention_cache.layers)
        for layer, joining in zip(*crossing, strict=True):
            assert isinstance(layer, CacheLayerMixin) and isinstance(joining, CacheLayerMixin)
            pairs = zip(_states(layer), _states(joining), strict=True)
            layer.keys, layer.values = (beside(pair, dim=2) for pair in pairs)


def _join(layer: CacheLayerMixin, joining: CacheLayerMixin, width: int) -> None:
    n = _held(layer, width)
    is_roomy = isinstance(layer, RoomyLayer)
    room = max(LEAST_ROOM, width // GROWTH) if is_roomy else 0
    buffers = tuple(_right_aligned(pair, n, room) for pair in zip(_states(layer), _states(joining), strict=True))
    layer.keys, layer.values = (buffer[:, :, :n] for buffer in buffers)
    if is_roomy:
        layer.room = buffers  # type: ignore[assignment]
    _count(layer, width)


def _join_states(layer: LinearAttentionLayer, joining: LinearAttentionLayer) -> None:
    for own, others in ((layer.conv_states, joining.conv_states), (layer.recurrent_states, joining.recurrent_states)):
        for number, states in own.items():
            if states is not None:
                own[number] = torch.cat((states, others[number]))  # type: ignore[arg-type]


def _right_aligned(states: tuple[Tensor, Tensor], n: int, room: int) -> Tensor:
    """The rows of both in one buffer of `n` positions and `room` more; where one is shorter there are zeros."""
    _, n_heads, _, d_head = states[0].shape
    rows = sum(len(held) for held in states)
    buffer = states[0].new_empty(rows, n_heads, n + room, d_head)
    for part, held in zip(buffer.split([len(held) for held in states]), states, strict=True):
        taken = min(n, held.shape[2])
        # What is never attended to still must not be NaN: nothing times NaN is NaN.
        part[:, :, : n - taken] = 0
        part[:, :, n - taken : n] = held[:, :, held.shape[2] - taken :]
    return buffer


def beside(states: Sequence[Tensor], *, dim: int) -> Tensor:
    """The rows of all of them, padded with zeros at the end of one dimension."""
    n = max(held.shape[dim] for held in states)
    padded = []
    for held in states:
        sizes = [0, 0] * (held.ndim - dim)
        sizes[-1] = n - held.shape[dim]
        padded.append(nn.functional.pad(held, sizes))
    return torch.cat(padded)


def _own(cache: Cache) -> Cache:
    """The keys and values of what the decoder itself reads."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def _states(layer: CacheLayerMixin) -> tuple[Tensor, Tensor]:
    assert layer.keys is not None and layer.values is not None
    return layer.keys, layer.values


def _held(layer: CacheLayerMixin, width: int) -> int:
    """How many of `width` columns a layer remembers."""
    return min(width, layer.sliding_window - 1) if isinstance(layer, DynamicSlidingWindowLayer) else width


def _count(layer: CacheLayerMixin, width: int) -> None:
    if isinstance(layer, DynamicSlidingWindowLayer):
        layer.cumulative_length = width
