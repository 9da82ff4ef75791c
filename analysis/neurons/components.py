"""The first principal component of a neuron's effect vectors, and which effects are significant.

An effect vector is q R: what each later head carries (q, one number per path) times what the neuron writes through it
(R, paths x width). All that is asked of effects comes from q and the Gram matrix R R', whatever the width.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

TOP, LEAST = 100, 3
FEW, NOTHING = "fewer than three effects", "no effect at all"

Paths = Float[np.ndarray, "prompt path"]
Gram = Float[np.ndarray, "path path"]


@dataclass(frozen=True)
class Component:
    """The component as weights of paths: `weights @ R` is it, at length 1; None and a reason where there is none."""

    mean: Float[np.ndarray, " path"]
    """Mean of q over the prompts that it was fitted on."""
    n: int
    top_k: int = 0
    smallest_norm: float = np.nan
    share: float = np.nan
    weights: Float[np.ndarray, " path"] | None = None
    reason: str | None = None


def first_component(q: Paths, gram: Gram, top_k: int = TOP) -> Component:
    """Of the `top_k` effects farthest from their mean, centred once (definitions A12).

    Its sign is such that at least half of these lie on its positive side.
    """
    mean = q.mean(axis=0) if len(q) else np.zeros(q.shape[1])
    if len(q) < LEAST:
        return Component(mean, len(q), reason=FEW)
    centred = q - mean
    sizes = effect_norms(centred, gram)
    chosen = np.argsort(-sizes, kind="stable")[:top_k]
    far = centred[chosen]
    squares, vectors = np.linalg.eigh(far @ gram @ far.T)
    largest = float(squares[-1])
    if not largest > 0:
        return Component(mean, len(q), len(chosen), reason=NOTHING)
    weights = far.T @ vectors[:, -1] / np.sqrt(largest)
    if (far @ gram @ weights > 0).mean() < 0.5:
        weights = -weights
    share = largest / float(np.maximum(squares, 0.0).sum())
    return Component(mean, len(q), len(chosen), float(sizes[chosen[-1]]), share, weights)


def effect_norms(centred: Paths, gram: Gram) -> Float[np.ndarray, " prompt"]:
    """Lengths of the effects q R."""
    return np.sqrt(np.maximum(((centred @ gram) * centred).sum(axis=1), 0.0))


def significant(q: Paths, gram: Gram, found: Component) -> Bool[np.ndarray, " prompt"]:
    """Which effects are farther from the fitted mean than the nearest of those that the component was fitted on."""
    return effect_norms(q - found.mean, gram) > found.smallest_norm


def share_along(q: Paths, gram: Gram, found: Component) -> float:
    """Share of the effects' squares about the fitted mean that the component holds; NaN without effects."""
    if found.weights is None or not len(q):
        return np.nan
    centred = q - found.mean
    whole = float(np.square(effect_norms(centred, gram)).sum())
    return float(np.square(centred @ gram @ found.weights).sum()) / whole if whole > 0 else np.nan


@dataclass
class AblatedStates:
    """Final states of prompts less chosen neurons' effects, summed up neuron by neuron."""

    removed: dict[str, Float[np.ndarray, "prompt d_model"]]

    @classmethod
    def of(cls, n_prompts: int, width: int) -> "AblatedStates":
        """With nothing taken away yet."""
        return cls({name: np.zeros((n_prompts, width)) for name in REPRESENTATION})

    def take(
        self, q: Paths, scaled: Paths, mean: Float[np.ndarray, " path"], outputs: Float[np.ndarray, "path d_model"],
        gram: Gram, found: Component,
    ) -> None:  # fmt: skip
        """Take one neuron's effects away but for their mean: all, the (in)significant ones, or all but the component.

        `q` and its train `mean` are in the units of the state; `scaled` is what the component was fitted on.
        """
        effects = (q - mean) @ outputs
        self.removed["all"] += effects
        if found.weights is None:
            self.removed["insignificant"] += effects
            self.removed["rank1"] += effects
            return
        far = significant(scaled, gram, found)[:, None]
        self.removed["significant"] += np.where(far, effects, 0.0)
        self.removed["insignificant"] += np.where(far, 0.0, effects)
        vector = found.weights @ outputs
        self.removed["rank1"] += effects - (effects @ vector)[:, None] * vector


REPRESENTATION = ("all", "significant", "insignificant", "rank1")
