-- Why completions ended, right and wrong apart: many at `length` means that --max-new-tokens is too small.
-- title: Why completions ended
-- mark: bar
-- x: sequences:Q
-- y: finish_reason:N  finish reason
-- color: outcome:N
-- tooltip: mean_generated_tokens
-- scale: x zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH ended AS (
    SELECT
        coalesce(finish_reason, 'unknown') AS finish_reason,
        CASE WHEN correct THEN 'correct' WHEN NOT correct THEN 'wrong' ELSE 'ungraded' END AS outcome,
        n_generated_tokens
    FROM sequences
    WHERE run_id = $run
)
SELECT finish_reason, outcome, count(*) AS sequences, avg(n_generated_tokens) AS mean_generated_tokens
FROM ended
GROUP BY finish_reason, outcome
ORDER BY sum(count(*)) OVER (PARTITION BY finish_reason) DESC, finish_reason, outcome
