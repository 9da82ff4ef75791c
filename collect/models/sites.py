"""Names of the places in a block whose states can be observed.

Sites are TransformerLens words fixed by identities (definitions A4): resid_pre + attn_out + mlp_out = resid_post, with
cross_attn_out as a fourth term where a decoder reads an encoder.
"""

from ...lake.errors import ConfigError, did_you_mean

SITE_SEMANTICS = 1
"""Version of what the site names mean; stored in run.json."""

RESIDUAL_SITES = ("resid_pre", "resid_post")
ATTENTION_SITES = ("v", "rot_q", "rot_k")
CROSS_SITES = ("cross_attn_out", "resid_mid_cross")
SUMS = {"resid_mid": ("attn_out",), "resid_mid_cross": ("attn_out", "cross_attn_out")}
"""Sites between two parts of a block: its input and what has been added to it so far."""
ADDED_SITES = ("attn_out", "cross_attn_out", "mlp_out")
MODULE_SITES = (*ADDED_SITES, *SUMS, "mlp_post", "z")
SITES = (*RESIDUAL_SITES, *SUMS, *ADDED_SITES, "mlp_post", "z", *ATTENTION_SITES, "final_norm")


def check_site(site: str) -> None:
    """ConfigError with the possible names if `site` is not one of SITES."""
    if site not in SITES:
        raise ConfigError(f"There is no site {site!r}.{did_you_mean(site, SITES, show=len(SITES))}")
