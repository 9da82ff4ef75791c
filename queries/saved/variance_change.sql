-- Whether samples spread more in one run than in another: tr_cov problem by problem, then the mean of the differences.
-- Both runs need `lake analyze variance` with the options of the first one's newest. The interval is of the mean over shared problems.
-- title: Change of Tr Cov between two runs
-- mark: point
-- x: layer:O
-- y: change:Q  mean change of Tr Cov
-- color: pooled:N
-- band: low, high  95 % interval of the mean
-- tooltip: prompts, before, after, relative_change
-- reference: y 0
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param other RUN = NULL  The run whose values are taken off; the newest other one with the same options if not given.
WITH asked AS (
    SELECT
        run_id,
        analysis_id,
        created_at,
        parameters -> ['site', 'stride', 'window', 'checkpoints', 'short'] AS options
    FROM analyses
    WHERE name = 'variance'
),
first AS (
    SELECT max_by(options, created_at) AS options
    FROM asked
    WHERE run_id = $run
),
chosen AS (
    SELECT run_id, max_by(analysis_id, created_at) AS analysis_id, max(created_at) AS created_at
    FROM asked
    SEMI JOIN first USING (options)
    GROUP BY run_id
),
pair AS (
    SELECT coalesce($other, (SELECT max_by(run_id, created_at) FROM chosen WHERE run_id <> $run)) AS other_run_id
),
spread AS (
    SELECT v.*
    FROM sampling_variance AS v
    JOIN chosen USING (run_id, analysis_id)
    WHERE v.prompt_id IS NOT NULL AND v.tr_cov IS NOT NULL
)
SELECT
    a.layer,
    coalesce('before step ' || a.checkpoint, 'whole answer') AS pooled,
    count(*) AS prompts,
    avg(b.tr_cov) AS before,
    avg(a.tr_cov) AS after,
    avg(a.tr_cov - b.tr_cov) AS change,
    avg(a.tr_cov - b.tr_cov) - 1.96 * stddev_samp(a.tr_cov - b.tr_cov) / sqrt(count(*)) AS low,
    avg(a.tr_cov - b.tr_cov) + 1.96 * stddev_samp(a.tr_cov - b.tr_cov) / sqrt(count(*)) AS high,
    avg(a.tr_cov - b.tr_cov) / nullif(avg(b.tr_cov), 0) AS relative_change
FROM spread AS a
JOIN spread AS b USING (prompt_id, site, layer, stride)
WHERE
    a.run_id = $run
    AND b.run_id = (SELECT other_run_id FROM pair)
    AND a.checkpoint IS NOT DISTINCT FROM b.checkpoint
    AND a.window IS NOT DISTINCT FROM b.window
GROUP BY ALL
ORDER BY a.layer, pooled
