-- One head's attention in one sequence, from the kept edges: which token each token looked at, of the prompt or generated.
-- Edges below the kept threshold are missing, so a row's weights need not sum to 1. Needs `--keep edges`.
-- title: Attention of one head
-- mark: rect
-- x: key:Q  position looked at
-- y: position:Q  position that looks
-- color: weight:Q  attention weight
-- labels: x key_token, y query_token
-- notice: notice
-- tooltip: query_token, key_token
-- scale: x equal, y equal, y reverse, color 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param layer BIGINT = 0  The layer.
-- param head BIGINT = 0  The head.
-- param part TEXT = prompt  Which tokens look: prompt or generated.
WITH tokens AS (
    SELECT position, token, is_prompt
    FROM token_steps
    WHERE run_id = $run AND sequence_id = $sequence
),
limits AS (
    SELECT
        CASE WHEN $part = 'prompt' THEN (config ->> '$.edge_cap')::BIGINT END AS cap,
        CASE WHEN $part <> 'prompt' THEN (config ->> '$.edge_cap_generated')::BIGINT END AS cap_per_token,
        (config ->> '$.edge_threshold')::DOUBLE AS threshold
    FROM runs
    WHERE run_id = $run
)
SELECT
    e.position,
    e.key,
    e.weight,
    q.token AS query_token,
    k.token AS key_token,
    CASE
        WHEN count(*) OVER () >= l.cap
        THEN format('Only the {} heaviest edges were kept (--edge-cap): lighter ones are missing.', l.cap)
        WHEN l.cap_per_token > 0
        THEN format('At most the {} heaviest edges of each token were kept (--edge-cap-generated).', l.cap_per_token)
        WHEN l.threshold > 0 THEN format('Edges up to {} were not kept (--edge-threshold).', l.threshold)
    END AS notice
FROM attention_edges AS e
JOIN tokens AS q ON q.position = e.position
JOIN tokens AS k ON k.position = e.key
CROSS JOIN limits AS l
WHERE
    e.run_id = $run
    AND e.sequence_id = $sequence
    AND e.layer = $layer
    AND e.head = $head
    AND e.kind = 'self'
    AND q.is_prompt = ($part = 'prompt')
ORDER BY e.position, e.key
