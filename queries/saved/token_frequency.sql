-- The tokens that the run generated most often, and how surprising they were on average.
-- title: Most frequent generated tokens
-- mark: bar
-- x: count:Q  times generated
-- y: token:N
-- color: mean_surprisal_bits:Q
-- tooltip: token_id, share
-- scale: x zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param limit BIGINT = 25  How many tokens to show.
SELECT
    token_id,
    any_value(token) AS token,
    count(*) AS count,
    count(*) / sum(count(*)) OVER () AS share,
    avg(surprisal_bits) FILTER (WHERE isfinite(surprisal_bits)) AS mean_surprisal_bits
FROM token_steps
WHERE run_id = $run AND step IS NOT NULL AND is_forced IS NOT TRUE
GROUP BY token_id
ORDER BY count DESC, token_id
LIMIT $limit
