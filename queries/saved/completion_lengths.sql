-- Length of the completions, right and wrong apart: length alone is a baseline that any detector must beat.
-- title: Length of completions
-- mark: bar
-- x: length:Q  generated tokens
-- y: sequences:Q
-- color: outcome:N
-- cell: width
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param bin BIGINT = 5  Width of a bin in tokens; the label is its lower end.
SELECT
    (n_generated_tokens // $bin) * $bin AS length,
    CASE WHEN correct THEN 'correct' WHEN NOT correct THEN 'wrong' ELSE 'ungraded' END AS outcome,
    count(*) AS sequences,
    $bin AS width
FROM sequences
WHERE run_id = $run AND n_generated_tokens > 0
GROUP BY ALL
ORDER BY outcome, length
