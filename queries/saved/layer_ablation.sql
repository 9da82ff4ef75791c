-- What the model loses without each layer's attention or MLP: nats per token of the reference solution, or greedy
-- accuracy, against the unedited model on the same problems. Needs `lake experiment ablation RUN`.
-- title: Change of {measure} without each layer
-- mark: line
-- x: layer:Q  ablated layer
-- y: change:Q  change of {measure} (loss: nats per token)
-- color: site:N
-- facet: action:N
-- band: ci_low, ci_high  95 % interval over problems
-- tooltip: value, n_problems, scope
-- reference: y 0
-- scale: y free
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param measure TEXT = loss  `loss` (nats per token) or `accuracy`.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'layer-ablations'
)
SELECT
    a.layer,
    a.site,
    a.action,
    a.scope,
    CASE $measure WHEN 'loss' THEN a.loss_change WHEN 'accuracy' THEN a.accuracy_change END AS change,
    CASE $measure WHEN 'loss' THEN a.loss_ci_low WHEN 'accuracy' THEN a.accuracy_ci_low END AS ci_low,
    CASE $measure WHEN 'loss' THEN a.loss_ci_high WHEN 'accuracy' THEN a.accuracy_ci_high END AS ci_high,
    CASE $measure WHEN 'loss' THEN a.loss WHEN 'accuracy' THEN a.accuracy END AS value,
    CASE $measure WHEN 'loss' THEN a.n_problems WHEN 'accuracy' THEN a.n_graded END AS n_problems
FROM layer_ablations AS a
JOIN chosen USING (analysis_id)
WHERE a.run_id = $run AND a.action <> 'none'
ORDER BY a.action, a.site, a.layer
