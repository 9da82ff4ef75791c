"""The names of sites, TransformerLens words (definitions A4), and what they are to each other; no model library."""

from ....lake.errors import ConfigError, did_you_mean

SITE_SEMANTICS = 1
"""Version of what the site names mean; stored in run.json."""

RESIDUAL_SITES = ("resid_pre", "resid_post")
ROTARY_SITES = ("q", "k")
"""Before the rotary embedding, equal to `rot_q` and `rot_k` where there is none."""
ATTENTION_SITES = ("v", "rot_q", "rot_k", *ROTARY_SITES)
CROSS_SITES = ("cross_attn_out", "resid_mid_cross")
SUMS = {"resid_mid": ("attn_out",), "resid_mid_cross": ("attn_out", "cross_attn_out")}
"""Sites between two parts of a block: its input and what has been added to it so far."""
ADDED_SITES = ("attn_out", "cross_attn_out", "mlp_out")
SITES = (*RESIDUAL_SITES, *SUMS, *ADDED_SITES, "mlp_post", "z", *ATTENTION_SITES, "final_norm")


def check_site(site: str) -> None:
    """ConfigError with the possible names if `site` is not one of SITES."""
    if site not in SITES:
        raise ConfigError(f"There is no site {site!r}.{did_you_mean(site, SITES, show=len(SITES))}")
