-- Two runs prompt by prompt: mean surprisal of what each generated, and which of them answered right more often.
-- Prompts are matched by `prompt_id`, which is equal across models. On the diagonal both runs were equally surprised.
-- title: Two runs, prompt by prompt
-- mark: point
-- x: mean_surprisal_bits:Q  mean surprisal in the run (bits)
-- y: other_mean_surprisal_bits:Q  mean surprisal in the other run (bits)
-- color: right_more_often:N  right more often
-- tooltip: accuracy, other_accuracy, samples, other_samples, prompt_id
-- reference: diagonal
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param other RUN = NULL  The run to compare with; the newest run before it if not given.
WITH chosen AS (
    SELECT coalesce($other, arg_max(o.run_id, o.created_at)) AS other_run_id
    FROM runs AS r
    LEFT JOIN runs AS o ON o.run_id <> r.run_id AND o.created_at <= r.created_at AND o.status <> 'removed'
    WHERE r.run_id = $run
),
surprisals AS (
    SELECT run_id, sequence_id, avg(surprisal_bits) AS surprisal_bits
    FROM token_steps
    WHERE run_id IN ($run, (SELECT other_run_id FROM chosen)) AND step IS NOT NULL AND is_forced IS NOT TRUE AND isfinite(surprisal_bits)
    GROUP BY ALL
),
by_prompt AS (
    SELECT
        run_id,
        prompt_id,
        count(*) AS samples,
        avg(correct::INTEGER) AS accuracy,
        avg(surprisal_bits) AS mean_surprisal_bits
    FROM sequences
    JOIN surprisals USING (run_id, sequence_id)
    GROUP BY ALL
)
SELECT
    a.prompt_id,
    a.run_id,
    b.run_id AS other_run_id,
    a.samples,
    b.samples AS other_samples,
    a.accuracy,
    b.accuracy AS other_accuracy,
    a.mean_surprisal_bits,
    b.mean_surprisal_bits AS other_mean_surprisal_bits,
    CASE
        WHEN a.accuracy > b.accuracy THEN 'the run'
        WHEN a.accuracy < b.accuracy THEN 'the other run'
        WHEN a.accuracy = b.accuracy THEN 'equally often'
        ELSE 'ungraded'
    END AS right_more_often
FROM by_prompt AS a
JOIN by_prompt AS b USING (prompt_id)
WHERE a.run_id = $run AND b.run_id <> $run
ORDER BY a.prompt_id
