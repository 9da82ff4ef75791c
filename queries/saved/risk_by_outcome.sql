-- Do risky sequences fail? Share of right answers by risk score, in ten equal bins from 0 to 1.
-- The band is the 95 % Wilson interval. If the score is worth something, the points fall from left to right.
-- title: Right answers by risk score
-- mark: point
-- x: risk:Q  risk score v0.5 (middle of the bin)
-- y: accuracy:Q  share of right answers
-- size: answers:Q
-- band: accuracy_low, accuracy_high  95 % interval
-- tooltip: answers, mean_risk, mean_early_warning
-- scale: x 0..1, y 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
WITH counts AS (
    SELECT
        (least(9, floor(r.risk_v05 * 10)) + 0.5) / 10 AS risk,
        count(*) AS answers,
        avg(a.correct::INTEGER) AS accuracy,
        avg(r.risk_v05) AS mean_risk,
        avg(r.early_warning_v05) AS mean_early_warning
    FROM risk_scores AS r
    JOIN answers AS a USING (run_id, sequence_id)
    WHERE r.run_id = $run AND r.profile = $profile AND r.risk_v05 IS NOT NULL
    GROUP BY 1
)
SELECT
    risk,
    answers,
    accuracy,
    (accuracy + 1.9208 / answers - 1.96 * sqrt(accuracy * (1 - accuracy) / answers + 0.9604 / answers ** 2)) / (1 + 3.8416 / answers) AS accuracy_low,
    (accuracy + 1.9208 / answers + 1.96 * sqrt(accuracy * (1 - accuracy) / answers + 0.9604 / answers ** 2)) / (1 + 3.8416 / answers) AS accuracy_high,
    mean_risk,
    mean_early_warning
FROM counts
ORDER BY risk
