-- How much do samples of one prompt differ? Prompts by number of distinct answers and share of right samples.
-- title: Agreement among the samples of a prompt
-- mark: rect
-- x: distinct_answers:Q  distinct answers
-- y: correct_samples:Q  right samples
-- color: prompts:Q
-- tooltip: mean_samples, mean_distinct_completions
-- scale: color zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH by_prompt AS (
    SELECT
        prompt_id,
        count(*) AS samples,
        count(DISTINCT completion) AS distinct_completions,
        count(DISTINCT predicted_answer) AS distinct_answers,
        count(*) FILTER (WHERE correct) AS correct_samples
    FROM answers
    WHERE run_id = $run
    GROUP BY prompt_id
)
SELECT
    distinct_answers,
    correct_samples,
    count(*) AS prompts,
    avg(samples) AS mean_samples,
    avg(distinct_completions) AS mean_distinct_completions
FROM by_prompt
GROUP BY distinct_answers, correct_samples
ORDER BY distinct_answers, correct_samples
