-- Paths of several prompts in one UMAP plane, one panel per prompt, so that they can be compared.
-- Every line is one sequence; the plane is shared by all sequences of the analysis. Made by `lake analyze trajectory`.
-- title: Paths in one shared plane
-- mark: path
-- x: shared_umap_x:Q  UMAP 1
-- y: shared_umap_y:Q  UMAP 2
-- color: kind:N
-- facet: prompt:N
-- detail: sequence_id:N
-- order: position:Q
-- tooltip: step, token, sample
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param prompts BIGINT = 9  Show this many prompts.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'trajectory'
        AND parameters ->> 'umap' IN ('shared', 'both')
),
first_prompts AS (
    SELECT s.prompt_id
    FROM trajectories AS t
    JOIN chosen USING (analysis_id)
    JOIN sequences AS s USING (run_id, sequence_id)
    WHERE t.run_id = $run
    GROUP BY s.prompt_id
    ORDER BY min(t.sequence_id)
    LIMIT $prompts
)
SELECT
    t.sequence_id,
    rtrim(left(coalesce(s.prompt, s.item_id), 26)) AS prompt,
    s.sample,
    coalesce(s.solution_method, CASE WHEN s.correct THEN 'correct' WHEN NOT s.correct THEN 'wrong' END, 'ungraded')
        AS kind,
    t.step,
    t.position,
    t.shared_umap_x,
    t.shared_umap_y,
    k.token
FROM trajectories AS t
JOIN chosen USING (analysis_id)
JOIN sequences AS s USING (run_id, sequence_id)
JOIN first_prompts USING (prompt_id)
LEFT JOIN token_steps AS k USING (run_id, sequence_id, position)
WHERE t.run_id = $run AND t.shared_umap_x IS NOT NULL
ORDER BY t.sequence_id, t.position
