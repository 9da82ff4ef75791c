-- Is the model right as often as it is confident? Completions in groups of equal size by confidence, against accuracy.
-- Confidence is exp(mean logprob of the generated tokens): the geometric mean of their probabilities.
-- title: Confidence against accuracy
-- mark: line
-- x: confidence:Q  confidence (mean token probability)
-- y: accuracy:Q  share of right answers
-- band: accuracy_low, accuracy_high  95 % interval
-- tooltip: answers, least_confidence, greatest_confidence
-- scale: y 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param groups BIGINT = 8  Number of groups of equal size.
WITH confidences AS (
    SELECT sequence_id, correct, exp(avg(logprob)) AS confidence
    FROM generated_tokens
    WHERE run_id = $run AND correct IS NOT NULL AND isfinite(logprob)
    GROUP BY sequence_id, correct
),
grouped AS (
    SELECT *, ntile($groups) OVER (ORDER BY confidence, sequence_id) AS confidence_group
    FROM confidences
),
counts AS (
    SELECT
        confidence_group,
        count(*) AS answers,
        avg(confidence) AS confidence,
        min(confidence) AS least_confidence,
        max(confidence) AS greatest_confidence,
        avg(correct::INTEGER) AS accuracy
    FROM grouped
    GROUP BY confidence_group
)
SELECT
    *,
    (accuracy + 1.9208 / answers - 1.96 * sqrt(accuracy * (1 - accuracy) / answers + 0.9604 / answers ** 2)) / (1 + 3.8416 / answers) AS accuracy_low,
    (accuracy + 1.9208 / answers + 1.96 * sqrt(accuracy * (1 - accuracy) / answers + 0.9604 / answers ** 2)) / (1 + 3.8416 / answers) AS accuracy_high
FROM counts
ORDER BY confidence_group
