-- The fingerprint of a run or of its groups: how velocity, curvature, surprisal, loops and more are distributed.
-- Made by `lake analyze compare`.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'compare'
)
SELECT f.label, f.metric, f.per, f.n, f.n_prompts, f.mean, f.sd, f.q05, f.q25, f.median, f.q75, f.q95, f.reason
FROM fingerprints AS f
JOIN chosen USING (analysis_id)
WHERE f.run_id = $run
ORDER BY f.per DESC, f.metric, f.label
