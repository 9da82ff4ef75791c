-- Where samples part: the relative variance of pooled states by layer and checkpoint.
-- Relative to the mean squared length, because layers differ in scale. Made by `lake analyze variance`.
-- title: Relative variance by layer and checkpoint
-- mark: rect
-- x: checkpoint:O  answer tokens before step
-- y: layer:O
-- color: relative_variance:Q  relative variance
-- tooltip: tr_cov, ci_low, ci_high, mean_pairwise_cosine, n_reached, n_prompts
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'variance'
)
SELECT
    v.layer,
    coalesce(v.checkpoint::TEXT, 'all') AS checkpoint,
    v.relative_variance,
    v.tr_cov,
    v.ci_low,
    v.ci_high,
    v.mean_pairwise_cosine,
    v.n_reached,
    v.n_prompts
FROM sampling_variance AS v
JOIN chosen USING (analysis_id)
WHERE v.run_id = $run AND v.prompt_id IS NULL AND v.relative_variance IS NOT NULL
ORDER BY v.layer, v.checkpoint NULLS LAST
