"""How far pooled states are from an oracle's; knows arrays."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Distance:
    """Of one pair of pooled states; NaN and a reason where there is none."""

    distance: float = np.nan
    cosine: float = np.nan
    relative_distance: float = np.nan
    reason: str | None = None


def distance(state: Float[np.ndarray, " dim"], oracle: Float[np.ndarray, " dim"], why: str | None = None) -> Distance:
    """Distance, cosine and distance over the oracle's length; `why` a state is NaN is the reason."""
    if not (np.isfinite(state).all() and np.isfinite(oracle).all()):
        return Distance(reason=why or "no pooled state")
    gap = float(np.linalg.norm(state - oracle))
    lengths = [float(np.linalg.norm(one)) for one in (state, oracle)]
    cosine = float(state @ oracle / lengths[0] / lengths[1]) if min(lengths) > 0 else np.nan
    relative = gap / lengths[1] if lengths[1] > 0 else np.nan
    return Distance(gap, cosine, relative, None if min(lengths) > 0 else "a zero vector has no cosine")
