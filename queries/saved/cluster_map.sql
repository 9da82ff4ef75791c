-- The correct solutions of a problem in the plane of their two main components, by cluster; texts on hover.
-- Those nearest to their cluster's centre represent it. Made by `lake analyze clusters`.
-- title: Clusters of solutions
-- mark: point
-- x: pc_x:Q  first component (model units)
-- y: pc_y:Q  second component (model units)
-- color: cluster:N
-- size: solution:O
-- facet: problem:N
-- tooltip: sequence_id, solution_method, completion, centroid_distance
-- scale: x free, y free
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param method TEXT = kmeans  kmeans, agglomerative or hdbscan.
-- param prompts BIGINT = 6  Show the problems with most different solutions, this many.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'clusters'
),
rows AS (
    SELECT c.*
    FROM solution_clusters AS c
    JOIN chosen USING (analysis_id)
    WHERE c.run_id = $run AND c.method = $method AND c.pc_x IS NOT NULL
),
largest AS (
    SELECT prompt_id
    FROM rows
    GROUP BY prompt_id
    ORDER BY count(*) DESC, prompt_id
    LIMIT $prompts
)
SELECT
    left(s.prompt, 40) AS problem,
    c.sequence_id,
    coalesce('cluster ' || c.cluster, 'noise') AS cluster,
    CASE WHEN c.is_representative THEN 'representative' ELSE 'other' END AS solution,
    c.pc_x,
    c.pc_y,
    c.centroid_distance,
    s.solution_method,
    s.completion
FROM rows AS c
JOIN largest USING (prompt_id)
JOIN sequences AS s USING (run_id, sequence_id)
ORDER BY problem, cluster, c.sequence_id
