-- How far the pooled states of a problem's samples spread at each temperature, over the runs of one model.
-- Of each run the newest `lake analyze variance` with the same site, stride, window and checkpoints counts.
-- title: Variance of pooled states by temperature
-- mark: line
-- x: temperature:Q
-- y: tr_cov:Q  Tr Cov, mean over problems
-- color: pooled:N
-- facet: layer:O
-- band: ci_low, ci_high  95 % interval
-- tooltip: measured_in, n_prompts, n_reached, relative_variance, mean_pairwise_cosine, tr_cov_between
-- scale: y free
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH model AS (
    SELECT model, weights_sha256
    FROM runs
    WHERE run_id = $run
),
first AS (
    SELECT max_by(parameters, created_at) AS parameters
    FROM analyses
    WHERE run_id = $run AND name = 'variance'
),
chosen AS (
    SELECT a.run_id, max_by(a.analysis_id, a.created_at) AS analysis_id
    FROM analyses AS a
    JOIN runs AS r USING (run_id)
    JOIN model AS m ON r.model IS NOT DISTINCT FROM m.model AND r.weights_sha256 IS NOT DISTINCT FROM m.weights_sha256
    CROSS JOIN first AS f
    WHERE
        a.name = 'variance'
        AND a.parameters ->> 'site' = f.parameters ->> 'site'
        AND a.parameters ->> 'stride' = f.parameters ->> 'stride'
        AND a.parameters ->> 'window' IS NOT DISTINCT FROM f.parameters ->> 'window'
        AND a.parameters ->> 'checkpoints' IS NOT DISTINCT FROM f.parameters ->> 'checkpoints'
    GROUP BY a.run_id
)
SELECT
    v.temperature,
    v.layer,
    coalesce('before step ' || v.checkpoint, 'whole answer') AS pooled,
    v.tr_cov,
    v.tr_cov_between,
    v.relative_variance,
    v.mean_pairwise_cosine,
    v.ci_low,
    v.ci_high,
    v.n_prompts,
    v.n_reached,
    v.run_id AS measured_in
FROM sampling_variance AS v
JOIN chosen USING (run_id, analysis_id)
WHERE v.prompt_id IS NULL AND v.tr_cov IS NOT NULL
ORDER BY v.layer, pooled, v.temperature
