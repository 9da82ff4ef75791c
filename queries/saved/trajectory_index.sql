-- One row per sequence with the columns of the guide's `analysis_index.csv`, and after them what they should be read with.
-- As in the guide, speeds and curvatures of the first columns are of each sequence's own UMAP plane: a picture without a
-- unit. `velocity_mean` and what follows are in the vectors' own space. Made by `lake analyze trajectory --figures`.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id of the trajectories; the newest of their kind if not given.
-- param topology TEXT = NULL  The analysis_id of the topology; the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'trajectory'
)
SELECT
    t.run_id,
    s.prompt_id,
    coalesce(s.item_id, '') AS label,
    r.model AS model_name,
    coalesce(s.metadata ->> '$.bucket', s.dataset) AS bucket,
    t.half_life_step AS "prompt_half_life@95pct",
    p.n_loops AS "num_h1_loops@0.02",
    t.umap_mean_velocity AS mean_speed,
    t.umap_max_velocity AS max_speed,
    t.umap_path_length AS total_path_len,
    t.umap_mean_curvature_rad AS mean_curvature,
    t.umap_max_curvature_rad AS max_curvature,
    t.sequence_id,
    s.sample,
    t.n_steps,
    t.n_truncated,
    t.mean_velocity AS velocity_mean,
    t.max_velocity AS velocity_max,
    t.path_length,
    t.tortuosity,
    t.mean_curvature_rad AS curvature_mean_rad,
    t.max_curvature_rad AS curvature_max_rad,
    p.min_persistence AS loop_min_persistence,
    t.reason
FROM trajectory_summaries AS t
JOIN chosen USING (analysis_id)
JOIN sequences AS s USING (run_id, sequence_id)
JOIN runs AS r USING (run_id)
LEFT JOIN persistence_summaries AS p
    ON p.run_id = t.run_id
    AND p.sequence_id = t.sequence_id
    AND p.space = 'pca'
    AND p.dimension = 1
    AND p.analysis_id = (
        SELECT coalesce($topology, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at)))
        FROM analyses
        WHERE run_id = $run AND name = 'topology'
    )
WHERE t.run_id = $run
ORDER BY t.sequence_id
