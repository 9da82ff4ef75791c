-- Share of right answers by difficulty level and solution method, with the 95 % Wilson interval.
-- title: Accuracy by level and solution method
-- mark: bar
-- x: level:N  difficulty level
-- y: accuracy:Q  share of right answers
-- color: method:N  solution method
-- band: accuracy_low, accuracy_high  95 % interval
-- tooltip: answers
-- scale: y 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH counts AS (
    SELECT
        coalesce(level, 'no level') AS level,
        coalesce(solution_method, 'unknown') AS method,
        count(*) AS answers,
        avg(correct::INTEGER) AS accuracy
    FROM answers
    WHERE run_id = $run
    GROUP BY ALL
)
SELECT
    level,
    method,
    answers,
    accuracy,
    (accuracy + 1.9208 / answers - 1.96 * sqrt(accuracy * (1 - accuracy) / answers + 0.9604 / answers ** 2)) / (1 + 3.8416 / answers) AS accuracy_low,
    (accuracy + 1.9208 / answers + 1.96 * sqrt(accuracy * (1 - accuracy) / answers + 0.9604 / answers ** 2)) / (1 + 3.8416 / answers) AS accuracy_high
FROM counts
ORDER BY try_cast(level AS DOUBLE) NULLS LAST, level, method
