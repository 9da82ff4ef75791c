-- Wrong answers that the model was surest of: graded wrong, lowest mean surprisal first.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param limit BIGINT = 20  How many to show.
WITH surprisals AS (
    SELECT run_id, sequence_id, avg(surprisal_bits) AS mean_surprisal_bits, max(surprisal_bits) AS max_surprisal_bits
    FROM token_steps
    WHERE run_id = $run AND step IS NOT NULL AND is_forced IS NOT TRUE AND isfinite(surprisal_bits)
    GROUP BY ALL
)
SELECT
    a.sequence_id,
    s.mean_surprisal_bits,
    s.max_surprisal_bits,
    a.predicted_answer,
    a.answer,
    a.label_reason,
    a.level,
    a.solution_method,
    a.prompt,
    a.completion
FROM answers AS a
JOIN surprisals AS s USING (run_id, sequence_id)
WHERE a.run_id = $run AND NOT a.correct
ORDER BY s.mean_surprisal_bits, a.sequence_id
LIMIT $limit
