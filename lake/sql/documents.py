"""SQL that statements about a run's documents share: which are held out, and where each token stands in them."""

HELD_OUT = """
    ('0x' || left(sha256(coalesce(item_id, prompt_id, sequence_id::VARCHAR)), 8))::BIGINT % 5 = 0
""".strip()
"""Of `sequences`: whether a document is one of the fifth that nothing is chosen on (fold 0 of its SHA-256)."""

SPANS = """
texts AS (
    SELECT sequence_id, coalesce(rendered_prompt, prompt, '') AS before, coalesce(completion, '') AS after
    FROM sequences WHERE run_id = $run AND sequence_id IN (SELECT sequence_id FROM chosen)
), spans AS (
    SELECT sequence_id, position, stop, before || after AS whole,
        lag(stop, 1, 0) OVER (PARTITION BY sequence_id ORDER BY position) AS start
    FROM (
        SELECT t.sequence_id, t.position, x.before, x.after,
            CASE WHEN t.is_prompt THEN t.char_end ELSE length(x.before) + t.char_end END AS stop
        FROM token_steps AS t JOIN texts AS x USING (sequence_id)
        WHERE t.run_id = $run
    )
)
""".strip()
"""Two common table expressions behind one named `chosen`: the characters (from `start` up to `stop`) of every token of
the sequences in it, in the whole text of its sequence."""
