"""Layers by number: 0 is the first block, -1 the last, -2 the one before."""

from typing import TYPE_CHECKING

from ..errors import NotFoundError

if TYPE_CHECKING:
    from .run_json import RunJson


def layer_number(run_id: str, run_json: "RunJson", layer: int) -> int:
    """The layer counted from the first block; NotFoundError where the run's model has none of that number."""
    if layer >= 0:
        return layer
    n_layers = (run_json.get("model") or {}).get("n_layers")
    if not isinstance(n_layers, int) or layer < -n_layers:
        raise NotFoundError(f"Run {run_id} has no layer {layer}: it has {n_layers or 'no known number of'} layers.")
    return n_layers + layer
