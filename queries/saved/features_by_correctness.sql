-- Features that tell right answers from wrong ones: in which share of either they are active on a generated token.
-- Needs `lake sae features` on a graded run. A longer answer has more tokens for a feature: compare lengths first.
-- title: Features in right and wrong answers
-- mark: point
-- x: share_right:Q  share of right answers
-- y: share_wrong:Q  share of wrong answers
-- detail: feature:N
-- tooltip: feature, label, difference, n_right, n_wrong
-- reference: diagonal
-- param run RUN = latest:sae_features  The run that was encoded: id, unique prefix, tag or latest.
-- param sae TEXT = NULL  The sae_id; all if not given.
-- param min_sequences BIGINT = 5  Leave out features that are active in fewer answers.
WITH graded AS (
    SELECT sequence_id, correct, n_prompt_tokens,
        count(*) FILTER (correct) OVER () AS n_right, count(*) FILTER (NOT correct) OVER () AS n_wrong
    FROM sequences WHERE run_id = $run AND correct IS NOT NULL
), active AS (
    SELECT DISTINCT f.sae_id, f.feature, g.sequence_id, g.correct, g.n_right, g.n_wrong
    FROM sae_features AS f
    JOIN graded AS g USING (sequence_id)
    WHERE f.run_id = $run AND ($sae IS NULL OR f.sae_id = $sae) AND f.position >= g.n_prompt_tokens
), shares AS (
    SELECT sae_id, feature, count(*) FILTER (correct) AS in_right, count(*) FILTER (NOT correct) AS in_wrong,
        any_value(n_right) AS n_right, any_value(n_wrong) AS n_wrong
    FROM active GROUP BY ALL HAVING count(*) >= $min_sequences
)
SELECT
    a.sae_id, a.feature, s.label,
    in_right / nullif(n_right, 0) AS share_right,
    in_wrong / nullif(n_wrong, 0) AS share_wrong,
    in_right / nullif(n_right, 0) - in_wrong / nullif(n_wrong, 0) AS difference,
    n_right,
    n_wrong
FROM shares AS a
LEFT JOIN (SELECT sae_id, feature, label FROM feature_stats WHERE run_id = $run) AS s USING (sae_id, feature)
ORDER BY abs(difference) DESC NULLS LAST, a.sae_id, a.feature
