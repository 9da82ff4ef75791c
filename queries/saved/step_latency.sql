-- Wall time of a batch step by generation step: median, and the range from the 10th to the 90th percentile.
-- title: Latency by step
-- mark: line
-- x: step:Q
-- y: median_latency_ms:Q
-- band: latency_ms_p10, latency_ms_p90  10th to 90th percentile
-- tooltip: tokens
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH grouped AS (
    SELECT step, count(*) AS tokens, quantile_cont(latency_ms, [0.1, 0.5, 0.9]) AS quantiles
    FROM token_steps
    WHERE run_id = $run AND step IS NOT NULL AND latency_ms IS NOT NULL
    GROUP BY step
)
SELECT
    step,
    tokens,
    quantiles[2] AS median_latency_ms,
    quantiles[1] AS latency_ms_p10,
    quantiles[3] AS latency_ms_p90
FROM grouped
ORDER BY step
