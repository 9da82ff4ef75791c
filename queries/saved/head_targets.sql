-- What does a head look at? The tokens that got its largest attention weight most often, from generated tokens.
-- title: Tokens that attention rests on
-- mark: bar
-- x: share:Q  share of generated tokens
-- y: key_token:N  token looked at
-- tooltip: times, mean_max_weight, mean_distance
-- scale: x zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param layer BIGINT = NULL  The layer; all if not given.
-- param head BIGINT = NULL  The head; all if not given.
-- param limit BIGINT = 20  How many tokens to show.
WITH looks AS (
    SELECT h.run_id, h.sequence_id, h.max_key AS position, h.max_weight, h.position - h.max_key AS distance
    FROM head_summaries AS h
    JOIN sequences AS s USING (run_id, sequence_id)
    WHERE
        h.run_id = $run
        AND h.kind = 'self'
        AND h.position >= s.n_prompt_tokens
        AND ($layer IS NULL OR h.layer = $layer)
        AND ($head IS NULL OR h.head = $head)
)
SELECT
    t.token AS key_token,
    count(*) AS times,
    count(*) / sum(count(*)) OVER () AS share,
    avg(l.max_weight) AS mean_max_weight,
    avg(l.distance) AS mean_distance
FROM looks AS l
JOIN token_steps AS t USING (run_id, sequence_id, position)
WHERE t.run_id = $run
GROUP BY t.token
ORDER BY times DESC, key_token
LIMIT $limit
