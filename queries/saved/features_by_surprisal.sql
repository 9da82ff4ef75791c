-- Features that are active on surprising tokens: mean surprisal of the tokens they are active on, against all tokens.
-- A feature at a position has read the token there. Needs `lake sae features` and a run that kept `tokens`.
-- title: Features by surprisal of their tokens
-- mark: point
-- x: n_active:Q  tokens
-- y: difference_bits:Q  mean surprisal, less that of all tokens (bits)
-- detail: feature:N
-- tooltip: feature, label, mean_surprisal_bits, mean_activation
-- scale: x log
-- reference: y 0
-- param run RUN = latest:sae_features  The run that was encoded: id, unique prefix, tag or latest.
-- param sae TEXT = NULL  The sae_id; all if not given.
-- param min_active BIGINT = 10  Leave out features that are active on fewer tokens.
WITH every AS (
    SELECT avg(surprisal_bits) AS mean_bits FROM token_steps WHERE run_id = $run AND isfinite(surprisal_bits)
), active AS (
    SELECT f.sae_id, f.feature, count(*) AS n_active, avg(t.surprisal_bits) AS mean_surprisal_bits,
        avg(f.activation) AS mean_activation
    FROM sae_features AS f
    JOIN token_steps AS t USING (run_id, sequence_id, position)
    WHERE f.run_id = $run AND ($sae IS NULL OR f.sae_id = $sae) AND isfinite(t.surprisal_bits)
    GROUP BY ALL
    HAVING count(*) >= $min_active
)
SELECT
    a.sae_id, a.feature, s.label, a.n_active, a.mean_surprisal_bits,
    a.mean_surprisal_bits - e.mean_bits AS difference_bits, a.mean_activation
FROM active AS a
CROSS JOIN every AS e
LEFT JOIN (SELECT sae_id, feature, label FROM feature_stats WHERE run_id = $run) AS s USING (sae_id, feature)
ORDER BY difference_bits DESC, a.sae_id, a.feature
