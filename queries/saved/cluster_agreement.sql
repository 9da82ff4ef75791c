-- Whether clusters of states recover the known solution methods: the adjusted Rand index, 1 for the same grouping.
-- A mean over problems, or of all solutions after each problem's mean is taken off. Made by `lake analyze clusters`.
-- title: Agreement of clusters with the known method
-- mark: bar
-- x: method:N
-- y: ari_method:Q  adjusted Rand index
-- band: ci_low, ci_high  95 % interval
-- tooltip: scope, n_prompts, n_distinct_texts, silhouette, distinctness, n_verdicts, ari_judge
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'clusters'
)
SELECT
    c.method,
    c.scope,
    c.ari_method,
    c.ci_low,
    c.ci_high,
    c.n_prompts,
    c.n_distinct_texts,
    c.silhouette,
    c.ari_judge,
    c.distinctness,
    c.n_verdicts
FROM cluster_summaries AS c
JOIN chosen USING (analysis_id)
WHERE c.run_id = $run AND c.prompt_id IS NULL AND c.ari_method IS NOT NULL
ORDER BY c.method
