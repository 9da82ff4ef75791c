-- Attention over one prompt from the kept edges, as a mean over heads: which token each token looked at.
-- A layer or a head may be chosen. Edges that were not kept (below the threshold, or beyond the cap of a head) count as 0,
-- so the means are too small, most where attention is spread. Long prompts are drawn in cells of several tokens: weights
-- are added over the keys of a cell and averaged over its queries.
-- title: Attention over the prompt
-- mark: rect
-- x: key:Q  position looked at
-- y: position:Q  position that looks
-- color: weight:Q  attention weight
-- cell: tokens_per_cell
-- labels: x key_token, y query_token
-- notice: notice
-- tooltip: query_token, key_token, tokens_per_cell
-- scale: x equal, y equal, y reverse, color log
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param layer BIGINT = NULL  Only this layer; all if not given.
-- param head BIGINT = NULL  Only this head; all if not given.
-- param cells BIGINT = 64  Most cells along either axis.
WITH edges AS (
    SELECT layer, head, position, key, weight
    FROM attention_edges
    WHERE
        run_id = $run
        AND sequence_id = $sequence
        AND kind = 'self'
        AND layer = coalesce($layer, layer)
        AND head = coalesce($head, head)
        AND position IN (SELECT position FROM token_steps WHERE run_id = $run AND sequence_id = $sequence AND is_prompt)
),
size AS (
    SELECT
        (SELECT count(*) FROM (SELECT DISTINCT layer, head FROM edges)) AS heads,
        max(position) + 1 AS tokens,
        greatest(1, ceil((max(position) + 1) / greatest(1, $cells)))::BIGINT AS tokens_per_cell
    FROM edges
),
limits AS (
    SELECT (config ->> '$.edge_cap')::BIGINT AS cap
    FROM runs
    WHERE run_id = $run
),
capped AS (
    SELECT count(*) FILTER (WHERE n >= cap) AS heads, count(*) AS of_heads, any_value(cap) AS cap
    FROM (SELECT layer, head, count(*) AS n FROM edges GROUP BY layer, head)
    CROSS JOIN limits
),
tokens AS (
    SELECT position, token
    FROM token_steps
    WHERE run_id = $run AND sequence_id = $sequence
),
cells AS (
    SELECT
        e.position // s.tokens_per_cell * s.tokens_per_cell AS position,
        e.key // s.tokens_per_cell * s.tokens_per_cell AS key,
        s.tokens_per_cell,
        -- The last cell may hold fewer queries.
        sum(e.weight) / any_value(s.heads)
        / least(any_value(s.tokens_per_cell), any_value(s.tokens) - min(e.position // s.tokens_per_cell * s.tokens_per_cell)) AS weight
    FROM edges AS e
    CROSS JOIN size AS s
    GROUP BY 1, 2, 3
)
SELECT
    c.position,
    c.key,
    c.weight,
    c.tokens_per_cell,
    CASE WHEN c.tokens_per_cell = 1 THEN q.token END AS query_token,
    CASE WHEN c.tokens_per_cell = 1 THEN k.token END AS key_token,
    CASE
        WHEN p.heads > 0
        THEN format('{} of {} heads kept only their {} heaviest edges (--edge-cap): their means are too small.', p.heads, p.of_heads, p.cap)
    END AS notice
FROM cells AS c
CROSS JOIN capped AS p
LEFT JOIN tokens AS q ON q.position = c.position
LEFT JOIN tokens AS k ON k.position = c.key
ORDER BY c.position, c.key
