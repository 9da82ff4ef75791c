-- How much one text changes with each token: cosine of each step of the path to the step before.
-- Made by `lake analyze trajectory`.
-- title: Cosine to the step before
-- mark: line
-- x: step:Q
-- y: cos_prev_step:Q  cosine to the step before
-- tooltip: token, position, surprisal_bits
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'trajectory'
)
SELECT t.step, t.position, t.cos_prev_step, k.token, k.surprisal_bits
FROM trajectories AS t
JOIN chosen USING (analysis_id)
LEFT JOIN token_steps AS k USING (run_id, sequence_id, position)
WHERE t.run_id = $run AND t.sequence_id = $sequence AND t.cos_prev_step IS NOT NULL AND t.step IS NOT NULL
ORDER BY t.position
