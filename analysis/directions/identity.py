"""The name of a direction."""

import hashlib

import numpy as np
from jaxtyping import Float


def direction_id(method: str, site: str, layer: int, vector: Float[np.ndarray, " dim"]) -> str:
    """A name that equal directions share, in any run: method, site, layer and a hash of the vector as stored."""
    sha = hashlib.sha256(np.ascontiguousarray(vector, "<f4").tobytes()).hexdigest()
    return f"{method}-{site}-{layer}-{sha[:8]}"
