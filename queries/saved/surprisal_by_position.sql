-- Mean surprisal by position over the sequences of a run, with a 95 % interval: does more context help?
-- title: Surprisal by position
-- mark: line
-- x: position:Q
-- y: mean_surprisal_bits:Q
-- color: part:N
-- band: surprisal_low, surprisal_high  95 % interval
-- tooltip: tokens
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param min_tokens BIGINT = 5  Leave out positions that fewer tokens reach.
WITH grouped AS (
    SELECT
        position,
        step IS NULL AS is_prompt,
        count(*) AS tokens,
        avg(surprisal_bits) AS mean_surprisal_bits,
        1.96 * stddev_samp(surprisal_bits) / sqrt(count(*)) AS half_interval
    FROM token_steps
    WHERE run_id = $run AND is_forced IS NOT TRUE AND isfinite(surprisal_bits)
    GROUP BY ALL
    HAVING count(*) >= $min_tokens
)
SELECT
    position,
    CASE WHEN is_prompt THEN 'prompt' ELSE 'generated' END AS part,
    tokens,
    mean_surprisal_bits,
    greatest(0, mean_surprisal_bits - half_interval) AS surprisal_low,
    mean_surprisal_bits + half_interval AS surprisal_high
FROM grouped
ORDER BY part DESC, position
