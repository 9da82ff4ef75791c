"""How wide the states of each site are, as far as a configuration says."""

from .model import LoadedModel
from .stack import Stack, largest


def site_width(loaded: LoadedModel, stack: Stack, site: str) -> int:
    """Elements of a vector of `site`."""
    config = loaded.config
    d_head = largest(config, "head_dim") or largest(config, "d_kv") or loaded.d_model // max(1, stack.n_heads)
    shared = largest(config, "num_key_value_heads") or stack.n_heads
    if site in ("z", "rot_q", "q"):
        return stack.n_heads * d_head
    if site in ("v", "rot_k", "k"):
        return shared * d_head
    if site == "mlp_post":
        names = ("intermediate_size", "n_inner", "d_ff", f"{stack.name}_ffn_dim")
        widths = (largest(config, name) for name in names)
        return next((width for width in widths if width), 4 * loaded.d_model)
    return loaded.d_model
