"""One feature of an autoencoder on one page of text: what it is like, and where it is active."""

from dataclasses import dataclass
from typing import Any

from ..lake.errors import NotFoundError
from .queried_lake import QueriedLake

STATS = """
SELECT s.* EXCLUDE (run_id, analysis_id), e.n_tokens, s.n_active / nullif(e.n_tokens, 0) AS density
FROM feature_stats AS s, (SELECT count(*) AS n_tokens FROM token_steps WHERE run_id = $run) AS e
WHERE s.run_id = $run AND s.sae_id = $sae AND s.feature = $feature
"""
EXAMPLES = """
SELECT kind, quantile, place, sequence_id, position, activation, text, peak_start, peak_end
FROM feature_examples WHERE run_id = $run AND sae_id = $sae AND feature = $feature
ORDER BY kind = 'silent', kind = 'quantile', quantile DESC, place
"""
N_TOP, PER_TENTH = 10, 1


@dataclass(frozen=True)
class FeatureCard:
    """Statistics and examples of one feature."""

    stats: dict[str, Any]
    examples: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"stats": self.stats, "examples": self.examples}

    def text(self) -> str:
        """The card for a terminal; the token is marked [[so]]."""
        s = self.stats
        lines = [f"feature {s['feature']} of {s['sae_id']}"]
        label = s["label"] or s["reason"] or "-"
        judged = f" (precision {s['precision']:.2f}, recall {s['recall']:.2f})" if _judged(s) else ""
        lines.append(f"  label      {label}{judged}")
        if s["density"] is not None:
            lines.append(
                f"  active on  {s['n_active']:,} tokens ({s['density']:.3%}) of {s['n_sequences']:,} sequences"
            )
        if s["max"] is not None:
            lines.append(f"  activation median {s['q50']:.3g}, 99 % {s['q99']:.3g}, largest {s['max']:.3g}")
        for name, words in (("top_tokens", "tokens"), ("top_logits", "raises"), ("bottom_logits", "lowers")):
            if s[name]:
                lines.append(f"  {words:<10} {'  '.join(map(repr, s[name]))}")
        for example in self._shown():
            lines.append(f"  {example['activation']:8.3g}  {_marked(example)}")
        return "\n".join(lines)

    def _shown(self) -> list[dict[str, Any]]:
        most = {"top": N_TOP, "quantile": PER_TENTH}
        return [one for one in self.examples if one["place"] < most.get(one["kind"], 0)]


def _judged(stats: dict[str, Any]) -> bool:
    return stats["precision"] is not None and stats["recall"] is not None


def _marked(example: dict[str, Any]) -> str:
    text, start, end = example["text"] or "", example["peak_start"] or 0, example["peak_end"] or 0
    return f"{text[:start]}[[{text[start:end]}]]{text[end:]}".replace("\n", "\\n")


def feature_card(lake: QueriedLake, run_id: str, sae_id: str, feature: int) -> FeatureCard:
    """The card; NotFoundError if the autoencoder has no such feature."""
    given = {"run": run_id, "sae": sae_id, "feature": feature}
    stats = lake.sql(STATS, given).to_dicts()
    if not stats:
        raise NotFoundError(f"{sae_id} has no feature {feature} on run {run_id}. `lake sae features` makes the tables.")
    return FeatureCard(stats[0], lake.sql(EXAMPLES, given).to_dicts())
