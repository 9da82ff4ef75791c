-- Velocity and curvature step by step, for the two solution methods (or right and wrong answers where there is none).
-- The band is a 95 % interval of the mean over sequences. Made by `lake analyze trajectory`.
-- title: Paths of two kinds of answers, step by step
-- mark: line
-- x: step:Q
-- y: mean:Q  mean over sequences
-- color: kind:N
-- facet: quantity:N
-- band: low, high  95 % interval
-- tooltip: sequences
-- scale: y free
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param other RUN = NULL  Compare with this run instead of comparing kinds of answers.
-- param min_sequences BIGINT = 5  Leave out steps that fewer sequences reach.
WITH chosen AS (
    SELECT run_id, max_by(analysis_id, row(parameters ->> 'sequences' IS NULL, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id IN ($run, $other) AND name = 'trajectory'
    GROUP BY run_id
),
quantities AS (
    UNPIVOT (
        SELECT
            t.step,
            CASE
                WHEN $other IS NOT NULL THEN t.run_id
                ELSE coalesce(s.solution_method, CASE WHEN s.correct THEN 'correct' ELSE 'wrong' END)
            END AS kind,
            t.velocity AS velocity,
            t.curvature_rad AS "curvature (rad)",
            t.cos_to_prompt AS "cosine to the prompt"
        FROM trajectories AS t
        JOIN chosen USING (run_id, analysis_id)
        JOIN sequences AS s USING (run_id, sequence_id)
        WHERE t.run_id IN ($run, $other) AND t.step IS NOT NULL
    ) ON velocity, "curvature (rad)", "cosine to the prompt" INTO NAME quantity VALUE value
)
SELECT
    step,
    kind,
    quantity,
    count(*) AS sequences,
    avg(value) AS mean,
    avg(value) - 1.96 * stddev_samp(value) / sqrt(count(*)) AS low,
    avg(value) + 1.96 * stddev_samp(value) / sqrt(count(*)) AS high
FROM quantities
GROUP BY ALL
HAVING count(*) >= $min_sequences
ORDER BY quantity DESC, kind, step
