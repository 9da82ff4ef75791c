-- Features that a rule predicts: the token, the token before, or both, with precision and recall on held-out documents.
-- Needs `lake sae features`.
-- title: Features with a rule
-- mark: point
-- x: recall:Q
-- y: precision:Q
-- size: n_active:Q  tokens
-- detail: feature:N
-- tooltip: feature, label, max_cos_other
-- param run RUN = latest:feature_stats  The run that was encoded: id, unique prefix, tag or latest.
-- param sae TEXT = NULL  The sae_id; all if not given.
-- param min_active BIGINT = 10  Leave out features that are active on fewer tokens.
SELECT
    sae_id,
    feature,
    label,
    precision,
    recall,
    2 * precision * recall / nullif(precision + recall, 0) AS f1,
    n_active,
    n_sequences,
    top_tokens[1:5] AS top_tokens,
    max_cos_other
FROM feature_stats
WHERE run_id = $run AND ($sae IS NULL OR sae_id = $sae) AND label IS NOT NULL AND n_active >= $min_active
    AND precision IS NOT NULL AND recall IS NOT NULL
ORDER BY f1 DESC NULLS LAST, n_active DESC, sae_id, feature
