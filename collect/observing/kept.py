"""What every forward pass of a run is reduced to."""

from dataclasses import dataclass

from .attention_layers import ObservableAttention
from .patterns import KeptPattern
from .vectors import KeptVectors


@dataclass(frozen=True)
class Kept:
    """What every forward pass is reduced to."""

    tokens: bool
    layers: bool
    heads: bool
    vectors: tuple[KeptVectors, ...]
    store_dtype: str
    topk: int = 10
    edges: tuple[float, int] | None = None
    """Threshold and cap per head of the prompt's attention edges; None keeps none."""
    query_edges: tuple[float, int] | None = None
    """Threshold and cap per generated token and head; None keeps none."""
    patterns: tuple[KeptPattern, ...] = ()
    attention: ObservableAttention = ObservableAttention()
    """Where the model's attention can be observed."""
    prompt: bool = True
    """Whether the prompt's tokens are observed, or only its last one, which predicts the first generated token."""

    def vectors_of(self, stack: str) -> list[KeptVectors]:
        """The vectors that one stack gives."""
        return [item for item in self.vectors if item.stack == stack]

    @property
    def summarises_attention(self) -> bool:
        """Whether heads are to be looked at."""
        return (self.heads or self.layers or self.keeps_weights) and bool(self.attention)

    @property
    def keeps_weights(self) -> bool:
        """Whether attention weights themselves are to be kept."""
        return bool(self.edges or self.query_edges or self.patterns)


def summary_sites(n_layers: int) -> list[tuple[str, int]]:
    """The (site, layer) pairs of `layer_summaries`, each compared with the one before it in this list."""
    return [("resid_pre", 0), *(("resid_post", layer) for layer in range(n_layers)), ("final_norm", n_layers - 1)]
