"""How wide the states of each site are, as far as a configuration says."""

from .model import LoadedModel
from .stack import Stack, largest

QUERY_SITES = ("z", "rot_q", "q")
KEY_SITES = ("v", "rot_k", "k")


def heads_of_site(stack: Stack, site: str) -> int:
    """Heads of a site; keys and values may have fewer than queries."""
    shared = largest(stack.config, "num_key_value_heads") if site in KEY_SITES else None
    return shared or stack.n_heads


def site_width(loaded: LoadedModel, stack: Stack, site: str) -> int:
    """Elements of a vector of `site`."""
    config = loaded.config
    d_head = largest(config, "head_dim") or largest(config, "d_kv") or loaded.d_model // max(1, stack.n_heads)
    if site in (*QUERY_SITES, *KEY_SITES):
        return heads_of_site(stack, site) * d_head
    if site == "mlp_post":
        names = ("intermediate_size", "n_inner", "d_ff", f"{stack.name}_ffn_dim")
        widths = (largest(config, name) for name in names)
        return next((width for width in widths if width), 4 * loaded.d_model)
    return loaded.d_model
