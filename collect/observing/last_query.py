"""What the last query of a pass attends to in every layer, or the values that it reads; nothing else is kept."""

from torch import Tensor

from .attention import AttentionObserver, last_query_weights


class LastQuery(AttentionObserver):
    """Keeps, of one pass, the last query's weights `[batch head key]` of each layer, or all values if asked."""

    def __init__(self, *, values: bool = False) -> None:
        super().__init__(causal=True, statistics=False, capture=frozenset(), block_bytes=1)
        self._wants_values = values
        self.weights: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        """`[batch value_head key d_value]`, with their gradients."""

    def observe(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: dict
    ) -> None:
        """One layer's attention of the pass."""
        if self._wants_values:
            self.values[layer] = value
        else:
            self.weights[layer] = last_query_weights(query, key, mask, options)

    def clear(self) -> None:
        """Let go of the last pass."""
        self.weights.clear()
        self.values.clear()
