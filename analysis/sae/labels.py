"""Rule labels: which token, token before, or pair of both predicts best that a feature is active.

The rule is chosen by F1 on four fifths of the documents and judged on the rest (fold 0 of SHA-256 of the document).
"""

import polars as pl

from ...lake.sql.documents import HELD_OUT
from ...lake.sql.duck import Connection

LEAST_F1 = 0.5
"""F1 on the documents it is chosen on, below which no rule is called a label."""

RULES = f"""
WITH documents AS (
    SELECT sequence_id,
        {HELD_OUT} AS held_out
    FROM sequences WHERE run_id = $run
), tokens AS (
    SELECT t.sequence_id, t.position, d.held_out, t.token_id, t.token,
        lag(t.token_id) OVER w AS before_id, lag(t.token) OVER w AS before
    FROM token_steps AS t JOIN documents AS d USING (sequence_id)
    WHERE t.run_id = $run
    WINDOW w AS (PARTITION BY t.sequence_id ORDER BY t.position)
), rules AS (
    SELECT sequence_id, position, held_out, 0 AS kind, token_id AS a, -1 AS b, token AS text FROM tokens
    WHERE position >= $first
    UNION ALL
    SELECT sequence_id, position, held_out, 1, before_id, -1, before FROM tokens
    WHERE position >= $first AND before_id IS NOT NULL
    UNION ALL
    SELECT sequence_id, position, held_out, 2, token_id, before_id, before || '|' || token FROM tokens
    WHERE position >= $first AND before_id IS NOT NULL
), named AS (
    SELECT kind, a, b, min(text) AS text, count(*) FILTER (NOT held_out) AS n, count(*) FILTER (held_out) AS n_held
    FROM rules GROUP BY kind, a, b
), active AS (
    SELECT f.feature, t.held_out, f.sequence_id, f.position
    FROM feature_activations AS f JOIN tokens AS t USING (sequence_id, position)
    WHERE f.run_id = $run AND f.sae_id = $sae AND f.analysis_id = $analysis
), totals AS (
    SELECT feature, count(*) FILTER (NOT held_out) AS n_active, count(*) FILTER (held_out) AS n_active_held
    FROM active GROUP BY feature
), hits AS (
    SELECT f.feature, r.kind, r.a, r.b,
        count(*) FILTER (NOT r.held_out) AS n_hit, count(*) FILTER (r.held_out) AS n_hit_held
    FROM active AS f JOIN rules AS r USING (sequence_id, position)
    GROUP BY f.feature, r.kind, r.a, r.b
), scored AS (
    SELECT h.feature, h.kind, n.text, h.n_hit_held, n.n_held, t.n_active_held,
        2 * h.n_hit / (n.n + t.n_active) AS f1,
        row_number() OVER (PARTITION BY h.feature ORDER BY 2 * h.n_hit / (n.n + t.n_active) DESC, h.kind, h.a, h.b) AS r
    FROM hits AS h JOIN named AS n USING (kind, a, b) JOIN totals AS t USING (feature)
    WHERE t.n_active > 0
)
SELECT
    feature::INTEGER AS feature, kind, text, f1,
    n_hit_held / nullif(n_held, 0) AS precision,
    n_hit_held / nullif(n_active_held, 0) AS recall
FROM scored WHERE r = 1 ORDER BY feature
"""


def rule_labels(connection: Connection, run_id: str, sae_id: str, analysis_id: str, first: int) -> pl.DataFrame:
    """Per active feature: label, precision and recall on held-out documents, and why there is none."""
    given = {"run": run_id, "sae": sae_id, "analysis": analysis_id, "first": first}
    rows = connection.sql(RULES, given)
    words = [_words(kind, text) for kind, text in rows.select("kind", "text").iter_rows()]
    fine = rows["f1"] >= LEAST_F1
    labelled = rows.with_columns(pl.Series("label", words, dtype=pl.String)).with_columns(
        pl.when(fine).then(pl.col(name)).alias(name) for name in ("label", "precision", "recall")
    )
    reason = f"label: no token, token before or pair reaches F1 {LEAST_F1}"
    reasons = pl.when(~fine).then(pl.lit(reason)).otherwise(None).alias("label_reason")
    return labelled.with_columns(reasons).select("feature", "label", "precision", "recall", "label_reason")


def _words(kind: int, text: str | None) -> str:
    if kind == 2:
        before, _, token = (text or "|").partition("|")
        return f"{token!r} after {before!r}"
    return f"{text!r}" if kind == 0 else f"after {text!r}"
