-- Features that a judge has named, with its balanced accuracy in recognising them by that name; 0.5 is chance.
-- Needs `lake sae label`. Detection: passages with and without the feature; fuzzing: its tokens or others marked.
-- title: Labels of features, tested
-- mark: point
-- x: detection:Q
-- y: fuzzing:Q
-- detail: feature:N
-- tooltip: feature, label, judge, rule
-- param run RUN = latest:feature_judgements  The run that was encoded: id, unique prefix, tag or latest.
-- param sae TEXT = NULL  The sae_id; all if not given.
SELECT
    j.sae_id,
    j.feature,
    j.judge,
    any_value(j.label) AS label,
    any_value(s.label) AS rule,
    max(j.balanced_accuracy) FILTER (j.kind = 'detection') AS detection,
    max(j.balanced_accuracy) FILTER (j.kind = 'fuzzing') AS fuzzing,
    string_agg(j.kind || ': ' || j.reason, '; ' ORDER BY j.kind) FILTER (j.reason IS NOT NULL) AS reason
FROM feature_judgements AS j
LEFT JOIN (SELECT sae_id, feature, label FROM feature_stats WHERE run_id = $run) AS s USING (sae_id, feature)
WHERE j.run_id = $run AND ($sae IS NULL OR j.sae_id = $sae)
GROUP BY j.analysis_id, j.sae_id, j.feature, j.judge
ORDER BY (detection + fuzzing) DESC NULLS LAST, j.sae_id, j.feature, j.judge
