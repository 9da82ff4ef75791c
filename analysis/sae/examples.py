"""Examples of every feature at once: its strongest tokens, some of every tenth of its activations, some without it."""

from ...lake.sql.documents import SPANS
from ...lake.sql.duck import Connection
from ...lake.values import Columns

N_TOP, PER_TENTH, N_SILENT = 20, 5, 10
CHARS_BEFORE, CHARS_AFTER = 80, 40
"""Characters of text around the token."""
DRAWS = 4 * N_SILENT
"""Tokens drawn per feature, of which the first that it is silent on are kept."""

# Draws are arithmetic on keys: the same rows give the same examples anywhere.
EXAMPLES = f"""
WITH active AS (
    SELECT feature, sequence_id, position, activation FROM feature_activations
    WHERE run_id = $run AND sae_id = $sae AND analysis_id = $analysis
), ranked AS (
    SELECT *,
        row_number() OVER (PARTITION BY feature ORDER BY activation DESC, sequence_id, position) - 1 AS place,
        ntile(10) OVER (PARTITION BY feature ORDER BY activation, sequence_id, position) - 1 AS tenth,
        (sequence_id * 7919 + position::BIGINT * 104729) % 1000003 AS draw
    FROM active
), of_tenths AS (
    SELECT *, row_number() OVER (PARTITION BY feature, tenth ORDER BY draw, sequence_id, position) - 1 AS drawn
    FROM ranked
), pool AS (
    SELECT sequence_id, position, row_number() OVER (ORDER BY sequence_id, position) - 1 AS i, count(*) OVER () AS n
    FROM token_steps WHERE run_id = $run AND position >= $first
), draws AS (
    SELECT f.feature, p.sequence_id, p.position, j
    FROM (SELECT DISTINCT feature FROM active) AS f
    CROSS JOIN range({DRAWS}) AS r(j)
    JOIN pool AS p ON p.i = (f.feature::BIGINT * 15485863 + r.j * 32452843 + 49979687) % p.n
), silent AS (
    SELECT d.*, row_number() OVER (PARTITION BY d.feature ORDER BY d.j) - 1 AS place
    FROM draws AS d ANTI JOIN active AS a USING (feature, sequence_id, position)
), chosen AS (
    SELECT feature, 'top' AS kind, -1 AS quantile, place, sequence_id, position, activation
    FROM ranked WHERE place < {N_TOP}
    UNION ALL
    SELECT feature, 'quantile', tenth, drawn, sequence_id, position, activation FROM of_tenths WHERE drawn < {PER_TENTH}
    UNION ALL
    SELECT feature, 'silent', -1, place, sequence_id, position, 0.0 FROM silent WHERE place < {N_SILENT}
), {SPANS}
SELECT
    c.feature::INTEGER AS feature,
    c.kind,
    c.quantile::INTEGER AS quantile,
    c.place::INTEGER AS place,
    c.sequence_id,
    c.position,
    c.activation::FLOAT AS activation,
    CASE WHEN s.stop IS NOT NULL THEN substring(
        s.whole, greatest(s.start - {CHARS_BEFORE}, 0) + 1,
        s.stop + {CHARS_AFTER} - greatest(s.start - {CHARS_BEFORE}, 0)
    ) END AS text,
    (s.start - greatest(s.start - {CHARS_BEFORE}, 0))::INTEGER AS peak_start,
    (s.stop - greatest(s.start - {CHARS_BEFORE}, 0))::INTEGER AS peak_end
FROM chosen AS c JOIN spans AS s USING (sequence_id, position)
ORDER BY ALL
"""


def example_columns(connection: Connection, run_id: str, sae_id: str, analysis_id: str, first: int) -> Columns:
    """Columns of `feature_examples`; tokens before position `first` are not drawn."""
    given = {"run": run_id, "sae": sae_id, "analysis": analysis_id, "first": first}
    rows = connection.arrow(EXAMPLES, given)
    return {name: rows[name].combine_chunks() for name in rows.column_names}
