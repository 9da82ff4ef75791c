-- How fast one text moves: length of each step of the path, in the vectors' own space.
-- Made by `lake analyze trajectory`.
-- title: Velocity along one text
-- mark: line
-- x: step:Q
-- y: velocity:Q  velocity
-- tooltip: token, position, surprisal_bits, velocity_z
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'trajectory'
)
SELECT t.step, t.position, t.velocity, t.velocity_z, k.token, k.surprisal_bits
FROM trajectories AS t
JOIN chosen USING (analysis_id)
LEFT JOIN token_steps AS k USING (run_id, sequence_id, position)
WHERE t.run_id = $run AND t.sequence_id = $sequence AND t.velocity IS NOT NULL AND t.step IS NOT NULL
ORDER BY t.position
