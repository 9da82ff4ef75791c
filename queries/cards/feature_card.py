"""One feature of an autoencoder on one page: what it is like, and where it is active."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...lake.errors import NotFoundError
from ...lake.values import Json, Row

if TYPE_CHECKING:
    from ...lake.sql.duck import Connection
    from ..queried_lake import QueriedLake

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
JUDGED = """
SELECT judge, any_value(label) AS label,
    max(balanced_accuracy) FILTER (kind = 'detection') AS detection,
    max(balanced_accuracy) FILTER (kind = 'fuzzing') AS fuzzing
FROM feature_judgements WHERE run_id = $run AND sae_id = $sae AND feature = $feature
GROUP BY analysis_id, judge HAVING any_value(label) IS NOT NULL ORDER BY judge, label
"""
LABELLED = """
SELECT sae_id, feature FROM feature_stats
WHERE run_id = $run AND n_active > 0 AND ($sae IS NULL OR sae_id = $sae)
ORDER BY 2 * precision * recall / nullif(precision + recall, 0) DESC NULLS LAST, n_active DESC, sae_id, feature
LIMIT $n
"""
N_TOP, PER_TENTH = 10, 1


@dataclass(frozen=True)
class MarkedExample:
    """An example in three pieces of text, the second of them the token; `kind` in words."""

    kind: str
    activation: float
    sequence_id: int
    position: int
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class FeatureCard:
    """Statistics and examples of one feature."""

    stats: Row
    examples: list[Row]
    judged: list[Row] = field(default_factory=list)
    """Labels that judges gave, with their balanced accuracy in recognising the feature by them."""

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return {"stats": self.stats, "judged": self.judged, "examples": self.examples}

    def facts(self) -> list[tuple[str, str]]:
        """What is known of the feature, by name."""
        s = self.stats
        label = s["label"] or s["reason"] or "-"
        judged = f" (precision {s['precision']:.2f}, recall {s['recall']:.2f})" if _judged(s) else ""
        found = [("label", f"{label}{judged}")]
        for one in self.judged:
            detection, fuzzing = ("-" if one[name] is None else f"{one[name]:.2f}" for name in ("detection", "fuzzing"))
            words = f"{one['label']} (detection {detection}, fuzzing {fuzzing}; {one['judge']})"
            found.append(("judge's label", words))
        if s["density"] is not None:
            where = f"{s['n_active']:,} tokens ({s['density']:.3%}) of {s['n_sequences']:,} sequences"
            found.append(("active on", where))
        if s["max"] is not None:
            found.append(("activation", f"median {s['q50']:.3g}, 99 % {s['q99']:.3g}, largest {s['max']:.3g}"))
        for name, words in (("top_tokens", "tokens"), ("top_logits", "raises"), ("bottom_logits", "lowers")):
            if s[name]:
                found.append((words, "  ".join(map(repr, s[name]))))
        return found

    def text(self) -> str:
        """The card for a terminal; the token is marked [[so]]."""
        lines = [f"feature {self.stats['feature']} of {self.stats['sae_id']}"]
        lines += [f"  {name:<14} {words}" for name, words in self.facts()]
        for one in self.marked():
            text = f"{one.before}[[{one.token}]]{one.after}".replace("\n", "\\n")
            lines.append(f"  {one.activation:8.3g}  {text}")
        return "\n".join(lines)

    def marked(self, *, n_top: int = N_TOP, per_tenth: int = PER_TENTH, n_silent: int = 0) -> list[MarkedExample]:
        """Some of the examples of each kind, strongest first."""
        most = {"top": n_top, "quantile": per_tenth, "silent": n_silent}
        return [_marked(one) for one in self.examples if one["place"] < most[one["kind"]]]


def _judged(stats: Row) -> bool:
    return stats["precision"] is not None and stats["recall"] is not None


def _marked(example: Row) -> MarkedExample:
    text, start, end = example["text"] or "", example["peak_start"] or 0, example["peak_end"] or 0
    tenth = example["quantile"]
    kind = {"top": "strongest", "silent": "not active"}.get(example["kind"], f"tenth {tenth + 1}")
    place = example["sequence_id"], example["position"]
    return MarkedExample(kind, example["activation"], *place, text[:start], text[start:end], text[end:])


def feature_card(lake: "QueriedLake", run_id: str, sae_id: str, feature: int) -> FeatureCard:
    """The card; NotFoundError if the autoencoder has no such feature."""
    with lake.connect(locked=True) as connection:
        return read_card(connection, run_id, sae_id, feature)


def read_card(connection: "Connection", run_id: str, sae_id: str, feature: int) -> FeatureCard:
    """The card, through an open connection."""
    given = {"run": run_id, "sae": sae_id, "feature": feature}
    stats = connection.sql(STATS, given).to_dicts()
    if not stats:
        raise NotFoundError(f"{sae_id} has no feature {feature} on run {run_id}. `lake sae features` makes the tables.")
    examples, judged = (connection.sql(query, given).to_dicts() for query in (EXAMPLES, JUDGED))
    return FeatureCard(stats[0], examples, judged)


def labelled_features(
    connection: "Connection", run_id: str, n: int, sae_id: str | None = None
) -> list[tuple[str, int]]:
    """The features of a run whose rule holds best on held-out documents, as sae_id and number."""
    given = {"run": run_id, "sae": sae_id, "n": n}
    return [(str(sae), int(feature)) for sae, feature in connection.execute(LABELLED, given).fetchall()]
