-- Two runs, or two groups of one run, quantity by quantity: the difference in standard deviations between prompts.
-- Tested by permuting labels prompt by prompt, corrected for the number of quantities. Made by `lake analyze compare`.
-- title: What differs between the two groups
-- mark: bar
-- x: effect_size:Q  difference (standard deviations between prompts)
-- y: metric:N
-- color: verdict:N
-- tooltip: label_a, label_b, mean_a, mean_b, difference, ci_low, ci_high, p_value, p_holm, n_prompts
-- reference: x 0
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'compare'
)
SELECT
    c.metric,
    c.effect_size,
    c.label_a,
    c.label_b,
    c.mean_a,
    c.mean_b,
    c.difference,
    c.ci_low,
    c.ci_high,
    c.p_value,
    c.p_holm,
    c.n_prompts,
    c.design,
    c.reason,
    CASE
        WHEN c.p_holm IS NULL THEN 'not tested'
        WHEN c.p_holm > 0.05 THEN 'not significant'
        WHEN c.difference > 0 THEN 'larger in ' || c.label_a
        ELSE 'larger in ' || c.label_b
    END AS verdict
FROM comparisons AS c
JOIN chosen USING (analysis_id)
WHERE c.run_id = $run
ORDER BY abs(c.effect_size) DESC NULLS LAST, c.metric
