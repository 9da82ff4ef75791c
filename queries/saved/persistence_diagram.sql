-- The persistence diagram of one path: components (0) and loops (1), the farther above the line the longer-lived.
-- The component that never dies is left out. Made by `lake analyze topology`.
-- title: Persistence diagram of one path
-- mark: point
-- x: birth:Q
-- y: death:Q
-- color: dimension:N  homology
-- tooltip: persistence, pair
-- scale: x equal, y equal
-- reference: diagonal
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
-- param space TEXT = pca  pca (as in the guide) or raw.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'topology'
)
SELECT
    p.birth,
    p.death,
    p.persistence,
    CASE p.dimension WHEN 0 THEN 'H0 components' ELSE 'H1 loops' END AS dimension,
    p.pair
FROM persistence_pairs AS p
JOIN chosen USING (analysis_id)
WHERE p.run_id = $run AND p.sequence_id = $sequence AND p.space = $space AND p.death IS NOT NULL
ORDER BY p.dimension, p.pair
