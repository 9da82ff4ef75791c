-- How well a direction in the state of each layer tells labels of unseen problems, beside baselines and shuffled labels.
-- Baselines do not depend on the layer: they are the level lines. Made by `lake analyze directions`.
-- title: Directions against baselines, by layer
-- mark: line
-- x: layer:Q  layer
-- y: auroc:Q  area under the ROC curve, unseen problems
-- color: method:N
-- facet: kind:N
-- band: ci_low, ci_high  95 % interval
-- tooltip: n, n_prompts, accuracy, ece_after
-- reference: y 0.5
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param within TEXT = NULL  Only inside this value, as column=value; all sequences if not given.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'directions'
),
scores AS (
    SELECT s.*
    FROM direction_scores AS s
    JOIN chosen USING (analysis_id)
    WHERE s.run_id = $run AND s.fold = 'all' AND s.within IS NOT DISTINCT FROM $within AND s.auroc IS NOT NULL
),
layers AS (
    SELECT DISTINCT layer
    FROM scores
    WHERE layer IS NOT NULL
)
SELECT
    coalesce(s.layer, l.layer) AS layer,
    s.method,
    CASE s.kind
        WHEN 'direction' THEN '1 direction'
        WHEN 'control' THEN '3 shuffled labels'
        ELSE '2 baseline (' || s.baseline_group || ')'
    END AS kind,
    s.auroc,
    s.ci_low,
    s.ci_high,
    s.accuracy,
    s.ece_after,
    s.n,
    s.n_prompts
FROM scores AS s
LEFT JOIN layers AS l ON s.layer IS NULL
ORDER BY kind, s.method, layer
