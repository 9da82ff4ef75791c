"""`--keep` for one model: what every pass is reduced to, what cannot be observed and why."""

from collections.abc import Callable
from dataclasses import dataclass

from ....lake.errors import ConfigError
from ...configuration.config import CollectConfig
from ...configuration.keep import EVERY_SITE, Keep
from ...models.model import LoadedModel
from ...models.sites.site_names import ATTENTION_SITES
from ...observing.attention_layers import ObservableAttention, observable_attention
from ...observing.kept import Kept
from ...observing.patterns import kept_patterns
from ...observing.vectors import check_attention_sites, each_once, kept_vectors, with_every_site
from .plan import stored_dtype


@dataclass(frozen=True)
class ResolvedKeep:
    """The items with `all` spelled out, the kept that they are, and by table why it stays empty."""

    keep: Keep
    kept: Kept
    unmeasured: dict[str, str]


def resolve_keep(keep: Keep, config: CollectConfig, loaded: LoadedModel, notice: Callable[[str], None]) -> ResolvedKeep:
    """The `--keep` items for this model; what cannot be observed is an error if asked for, else a notice."""
    unmeasured: dict[str, str] = {}
    looks = keep.heads or keep.layers or keep.edges or keep.patterns
    taken = [item for item in keep.activations if item.site in (*ATTENTION_SITES, EVERY_SITE)]
    attention = observable_attention(loaded) if looks or taken else ObservableAttention()
    if attention.reason and looks:
        if not attention and (keep.heads or keep.edges or keep.patterns) and "keep" in config.model_fields_set:
            raise ConfigError(
                f"heads, edges and patterns cannot be kept: {attention.reason}. "
                "Use --keep tokens,layers,activations:resid_post."
            )
        notice(f"Attention is not observed{' everywhere' if attention else ''}: {attention.reason}.")
        unmeasured = {"head_summaries": attention.reason, "layer_summaries.attn_*": attention.reason}
    keep = with_every_site(keep, loaded, attention, notice)
    asked = kept_vectors(keep, loaded.stacks, observe_prompt=config.observe_prompt)
    check_attention_sites(asked, loaded, attention)
    of_prompt = "prompt" in keep.edges and config.observe_prompt
    kept = Kept(
        keep.tokens,
        keep.layers,
        keep.heads and bool(attention),
        each_once(asked, generates=config.completes),
        stored_dtype(loaded, config),
        config.topk,
        edges=(config.edge_threshold, config.edge_cap) if of_prompt else None,
        query_edges=(config.edge_threshold, config.edge_cap_generated) if "generated" in keep.edges else None,
        patterns=kept_patterns(keep, loaded.stacks, attention),
        attention=attention,
        prompt=config.observe_prompt,
    )
    return ResolvedKeep(keep, kept, unmeasured)
