-- Prompts with the fewest right samples, with the most common answer beside the reference.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param limit BIGINT = 20  How many to show.
SELECT
    prompt_id,
    any_value(level) AS level,
    count(*) AS samples,
    avg(correct::INTEGER) AS accuracy,
    count(DISTINCT completion) AS distinct_completions,
    count(DISTINCT predicted_answer) AS distinct_answers,
    mode(predicted_answer) AS commonest_answer,
    any_value(answer) AS answer,
    any_value(prompt) AS prompt
FROM answers
WHERE run_id = $run
GROUP BY prompt_id
ORDER BY accuracy, samples DESC, prompt_id
LIMIT $limit
