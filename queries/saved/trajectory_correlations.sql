-- How velocity and curvature go with surprisal, entropy and correctness, counted from the end of the answer.
-- Rank correlations over sequences with 95 % intervals that draw prompts. Made by `lake analyze compare`.
-- title: Geometry against surprisal and correctness, from the end of the answer
-- mark: line
-- x: steps_from_end:Q  steps before the last token of the answer
-- y: spearman:Q  rank correlation
-- color: other:N  with
-- facet: metric:N
-- band: ci_low, ci_high  95 % interval
-- tooltip: n, n_prompts
-- scale: x reverse
-- reference: y 0
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param label TEXT = NULL  Only this group; the first of the comparison if not given.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at))) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'compare'
)
SELECT
    c.label,
    c.metric,
    c.other,
    c.steps_from_end,
    c.n,
    c.n_prompts,
    c.spearman,
    c.ci_low,
    c.ci_high
FROM trajectory_correlations AS c
JOIN chosen USING (analysis_id)
WHERE
    c.run_id = $run
    AND c.steps_from_end IS NOT NULL
    AND c.spearman IS NOT NULL
    AND c.label = coalesce($label, (SELECT min(label_a) FROM comparisons JOIN chosen USING (analysis_id)))
ORDER BY c.metric, c.other, c.steps_from_end
