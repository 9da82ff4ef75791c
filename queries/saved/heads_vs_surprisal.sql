-- Which heads' attention goes with surprise? Correlation over generated tokens between the entropy of a head, when it
-- predicts a token, and the surprisal of that token, for right and wrong completions apart.
-- title: Head entropy against the surprisal of the predicted token
-- mark: rect
-- x: head:Q
-- y: layer:Q
-- color: correlation:Q
-- facet: outcome:N
-- tooltip: tokens, mean_entropy_bits, mean_next_surprisal_bits
-- scale: color diverging, color -1..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH outcomes AS (
    SELECT sequence_id, correct
    FROM sequences
    WHERE run_id = $run
),
predicted AS (
    SELECT n.sequence_id, n.position, o.correct, n.next_surprisal_bits
    FROM next_tokens AS n
    JOIN outcomes AS o USING (sequence_id)
    WHERE n.run_id = $run AND n.next_step IS NOT NULL AND n.next_is_forced IS NOT TRUE AND isfinite(n.next_surprisal_bits)
)
SELECT
    h.layer,
    h.head,
    CASE WHEN p.correct THEN 'correct' WHEN NOT p.correct THEN 'wrong' ELSE 'ungraded' END AS outcome,
    count(*) AS tokens,
    corr(p.next_surprisal_bits, h.entropy_bits) AS correlation,
    avg(h.entropy_bits) AS mean_entropy_bits,
    avg(p.next_surprisal_bits) AS mean_next_surprisal_bits
FROM head_summaries AS h
JOIN predicted AS p USING (sequence_id, position)
WHERE h.run_id = $run AND h.kind = 'self' AND h.stack = 'decoder' AND isfinite(h.entropy_bits)
GROUP BY h.layer, h.head, p.correct
ORDER BY outcome, h.layer, h.head
