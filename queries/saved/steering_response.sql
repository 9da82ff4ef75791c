-- What adding a direction does to answers, by strength, beside random directions of equal length.
-- Made by `lake analyze steering RUN STEERED...` or `lake experiment steering`; the unsteered run keeps the answer.
-- title: Answers under a direction
-- mark: line
-- x: strength:Q  multiple of the direction's own length
-- y: change:Q  change against unsteered answers
-- color: added:N
-- facet: measure:N
-- band: change_ci_low, change_ci_high  95 % interval
-- tooltip: direction, layer, value, beyond_random, beyond_random_ci_low, beyond_random_ci_high, n_prompts
-- scale: y free
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'steering'
),
steered AS (
    SELECT
        s.*,
        CASE
            WHEN s.control_of IS NULL THEN s.method
            ELSE 'random ' || dense_rank() OVER (PARTITION BY s.control_of IS NOT NULL ORDER BY s.direction)
        END AS added
    FROM steering_effects AS s
    JOIN chosen USING (analysis_id)
    WHERE s.run_id = $run AND s.direction IS NOT NULL
)
SELECT
    measure,
    strength,
    added,
    value,
    change,
    change_ci_low,
    change_ci_high,
    beyond_random,
    beyond_random_ci_low,
    beyond_random_ci_high,
    direction,
    layer,
    n_prompts
FROM steered
WHERE change IS NOT NULL
ORDER BY measure, added, direction, strength
