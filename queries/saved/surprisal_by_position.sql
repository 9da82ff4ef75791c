-- Mean surprisal by position over the sequences of a run, with a 95 % interval: does more context help?
-- title: Surprisal by position
-- mark: line
-- x: position:Q
-- y: mean_surprisal_bits:Q
-- color: part:N
-- band: surprisal_low, surprisal_high
-- tooltip: tokens
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param min_tokens BIGINT = 5  Leave out positions that fewer tokens reach.
SELECT
    position,
    CASE WHEN step IS NULL THEN 'prompt' ELSE 'generated' END AS part,
    count(*) AS tokens,
    avg(surprisal_bits) AS mean_surprisal_bits,
    greatest(0, avg(surprisal_bits) - 1.96 * stddev_samp(surprisal_bits) / sqrt(count(*))) AS surprisal_low,
    avg(surprisal_bits) + 1.96 * stddev_samp(surprisal_bits) / sqrt(count(*)) AS surprisal_high
FROM token_steps
WHERE run_id = $run AND isfinite(surprisal_bits)
GROUP BY ALL
HAVING count(*) >= $min_tokens
ORDER BY part DESC, position
