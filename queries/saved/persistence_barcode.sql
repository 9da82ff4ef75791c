-- The persistence barcode of one path: from the distance at which each component or loop appears to where it vanishes.
-- The component that never dies is left out. Made by `lake analyze topology`.
-- title: Persistence barcode of one path
-- mark: bar
-- x: birth:Q  distance
-- end: death:Q
-- y: bar:O
-- color: dimension:N  homology
-- tooltip: persistence
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
-- param space TEXT = pca  pca (as in the guide) or raw.
-- param bars BIGINT = 40  Show this many of the longest bars of each dimension.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'topology'
)
SELECT
    row_number() OVER (ORDER BY p.dimension, p.pair) - 1 AS bar,
    p.birth,
    p.death,
    p.persistence,
    CASE p.dimension WHEN 0 THEN 'H0 components' ELSE 'H1 loops' END AS dimension
FROM persistence_pairs AS p
JOIN chosen USING (analysis_id)
WHERE p.run_id = $run AND p.sequence_id = $sequence AND p.space = $space AND p.death IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY p.dimension ORDER BY p.pair) <= $bars
ORDER BY bar
