-- How far one text has gone from its prompt, step by step: cosine of the path to the prompt alone.
-- Made by `lake analyze trajectory`.
-- title: Cosine to the prompt
-- mark: line
-- x: step:Q
-- y: cos_to_prompt:Q  cosine to the prompt
-- tooltip: token, position, surprisal_bits
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'trajectory'
)
SELECT t.step, t.position, t.cos_to_prompt, k.token, k.surprisal_bits
FROM trajectories AS t
JOIN chosen USING (analysis_id)
LEFT JOIN token_steps AS k USING (run_id, sequence_id, position)
WHERE t.run_id = $run AND t.sequence_id = $sequence AND t.cos_to_prompt IS NOT NULL AND t.step IS NOT NULL
ORDER BY t.position
