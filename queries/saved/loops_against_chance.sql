-- The longest loop of every path against chance: the same steps in random order, from the same first point.
-- Above the line a path has a longer loop than its null paths have on average; the p-value counts how many have as long
-- a one. Made by `lake analyze topology`.
-- title: Loops against chance
-- mark: point
-- x: null_mean_max_persistence:Q  longest loop of the null paths, mean
-- y: max_persistence:Q  longest loop of the path
-- color: verdict:N
-- tooltip: sequence_id, n_loops, null_mean_loops, p_max_persistence, p_loops
-- reference: diagonal
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param space TEXT = pca  pca (as in the guide) or raw.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'topology'
        AND (parameters ->> 'null_paths')::INTEGER > 0
)
SELECT
    p.sequence_id,
    coalesce(p.max_persistence, 0) AS max_persistence,
    p.null_mean_max_persistence,
    p.n_loops,
    p.null_mean_loops,
    p.p_loops,
    p.p_max_persistence,
    CASE WHEN p.p_max_persistence <= 0.05 THEN 'longer than chance (p <= 0.05)' ELSE 'as chance gives' END AS verdict
FROM persistence_summaries AS p
JOIN chosen USING (analysis_id)
WHERE p.run_id = $run AND p.space = $space AND p.dimension = 1 AND p.null_paths IS NOT NULL
ORDER BY p.sequence_id
