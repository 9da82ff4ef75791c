-- The chance that one of k samples is right, of runs beside each other (sampled plainly, or with an edit).
-- Made by `lake analyze pass-rates RUN OTHER...`; the first run keeps the answer.
-- title: pass@k by condition
-- mark: line
-- x: k:Q  samples
-- y: pass_at_k:Q  chance that one is right
-- color: condition:N
-- band: ci_low, ci_high  95 % interval
-- tooltip: n_samples, n_correct, n_prompts, direction, layer, strength
-- scale: y 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'pass-rates'
)
SELECT
    p.k,
    coalesce(r.tag, p.condition) AS condition,
    p.pass_at_k,
    p.ci_low,
    p.ci_high,
    p.n_samples,
    p.n_correct,
    p.n_prompts,
    p.direction,
    p.layer,
    p.strength
FROM pass_rates AS p
JOIN chosen USING (analysis_id)
LEFT JOIN runs AS r ON p.condition = r.run_id
WHERE p.run_id = $run AND p.pass_at_k IS NOT NULL
ORDER BY condition, p.k
