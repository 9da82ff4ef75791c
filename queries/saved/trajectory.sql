-- The path of one text through meaning, as a UMAP picture of its own: steps in colour, tokens on hover.
-- A picture only: distances in it have no unit, and planes of two sequences cannot be compared (see shared_trajectories).
-- Made by `lake analyze trajectory`.
-- title: Path of one text
-- mark: path
-- x: umap_x:Q  UMAP 1
-- y: umap_y:Q  UMAP 2
-- color: step:Q
-- order: position:Q
-- tooltip: token, text_so_far, velocity, curvature_rad, cos_to_prompt, surprisal_bits
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'trajectory'
        AND parameters ->> 'umap' IN ('sequence', 'both')
)
SELECT
    t.position,
    coalesce(t.step, -1) AS step,
    t.umap_x,
    t.umap_y,
    k.token,
    right(left(s.completion, k.char_end), 60) AS text_so_far,
    t.velocity,
    t.curvature_rad,
    t.cos_to_prompt,
    k.surprisal_bits
FROM trajectories AS t
JOIN chosen USING (analysis_id)
JOIN sequences AS s USING (run_id, sequence_id)
LEFT JOIN token_steps AS k USING (run_id, sequence_id, position)
WHERE t.run_id = $run AND t.sequence_id = $sequence AND t.umap_x IS NOT NULL
ORDER BY t.position
