-- One head's attention over one prompt, from the kept edges: which token each token looked at.
-- Edges below the kept threshold are missing, so a row's weights need not sum to 1. Needs `--keep edges`.
-- title: Attention of one head over the prompt
-- mark: rect
-- x: key:O  position looked at
-- y: position:O  position that looks
-- color: weight:Q  attention weight
-- tooltip: query_token, key_token
-- scale: color 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param layer BIGINT = 0  The layer.
-- param head BIGINT = 0  The head.
WITH tokens AS (
    SELECT position, token
    FROM token_steps
    WHERE run_id = $run AND sequence_id = $sequence
)
SELECT e.position, e.key, e.weight, q.token AS query_token, k.token AS key_token
FROM attention_edges AS e
JOIN tokens AS q ON q.position = e.position
JOIN tokens AS k ON k.position = e.key
WHERE
    e.run_id = $run
    AND e.sequence_id = $sequence
    AND e.layer = $layer
    AND e.head = $head
    AND e.kind = 'self'
ORDER BY e.position, e.key
