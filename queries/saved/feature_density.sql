-- How often features are active: number of features by the share of tokens, four bins per factor of ten.
-- Needs `lake sae features`; dead features are counted in the column `dead` and have no bar.
-- title: Density of features
-- mark: bar
-- x: log10_density:Q  log10 of the share of tokens
-- y: features:Q
-- color: sae_id:N
-- cell: 0.25
-- tooltip: dead
-- param run RUN = latest:feature_stats  The run that was encoded: id, unique prefix, tag or latest.
-- param sae TEXT = NULL  The sae_id; all if not given.
WITH n AS (
    SELECT count(*) AS tokens FROM token_steps WHERE run_id = $run
), features AS (
    SELECT sae_id, n_active, count(*) FILTER (n_active = 0) OVER (PARTITION BY sae_id) AS dead
    FROM feature_stats
    WHERE run_id = $run AND ($sae IS NULL OR sae_id = $sae)
)
SELECT
    f.sae_id,
    floor(4 * log10(f.n_active / n.tokens)) / 4 AS log10_density,
    count(*) AS features,
    any_value(f.dead) AS dead
FROM features AS f, n
WHERE f.n_active > 0
GROUP BY ALL
ORDER BY f.sae_id, log10_density
