-- How far states lie along the direction from wrong to right, step by step before the end of the answer.
-- Each problem is projected on a direction that has not seen it. Made by `lake analyze directions`.
-- title: Projection on the direction, from the end of the answer
-- mark: line
-- x: steps_from_end:Q  steps before the last token of the answer
-- y: projection:Q  mean projection less the threshold (model units)
-- color: answers:N
-- facet: layer:O
-- band: low, high  95 % interval of the mean
-- tooltip: sequences
-- scale: x reverse, y free
-- reference: y 0
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param method TEXT = mean-difference  The direction's method.
-- param layer BIGINT = NULL  Only this layer; all if not given.
-- param steps BIGINT = 40  How many steps before the end.
-- param min_sequences BIGINT = 5  Leave out steps that fewer sequences reach.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'directions'
),
places AS (
    SELECT
        p.layer,
        s.n_prompt_tokens + s.n_generated_tokens - (s.finish_reason = 'eos')::INTEGER - 1 - p.position AS steps_from_end,
        s.correct,
        p.held_out
    FROM direction_projections AS p
    JOIN chosen USING (analysis_id)
    JOIN directions AS d USING (run_id, analysis_id, direction_id)
    JOIN sequences AS s USING (run_id, sequence_id)
    WHERE
        p.run_id = $run
        AND d.method = $method
        AND p.held_out IS NOT NULL
        AND p.position >= s.n_prompt_tokens - 1
        AND s.correct IS NOT NULL
        AND p.layer = coalesce($layer, p.layer)
)
SELECT
    layer,
    steps_from_end,
    CASE WHEN correct THEN 'right' ELSE 'wrong' END AS answers,
    count(*) AS sequences,
    avg(held_out) AS projection,
    avg(held_out) - 1.96 * stddev_samp(held_out) / sqrt(count(*)) AS low,
    avg(held_out) + 1.96 * stddev_samp(held_out) / sqrt(count(*)) AS high
FROM places
WHERE steps_from_end BETWEEN 0 AND $steps
GROUP BY ALL
HAVING count(*) >= $min_sequences
ORDER BY layer, answers, steps_from_end
