-- Mean entropy of the next-token distribution by generation step, for right and wrong completions apart.
-- The band is a 95 % interval of the mean. Late steps are reached by long completions only: see `sequences`.
-- title: Entropy while generating, right and wrong answers
-- mark: line
-- x: step:Q
-- y: mean_entropy_bits:Q
-- color: outcome:N
-- band: entropy_low, entropy_high  95 % interval
-- tooltip: sequences
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param min_sequences BIGINT = 5  Leave out steps that fewer sequences reach.
SELECT
    step,
    outcome,
    count(*) AS sequences,
    avg(entropy_bits) AS mean_entropy_bits,
    greatest(0, avg(entropy_bits) - 1.96 * stddev_samp(entropy_bits) / sqrt(count(*))) AS entropy_low,
    avg(entropy_bits) + 1.96 * stddev_samp(entropy_bits) / sqrt(count(*)) AS entropy_high
FROM generated_tokens
WHERE run_id = $run AND isfinite(entropy_bits)
GROUP BY ALL
HAVING count(*) >= $min_sequences
ORDER BY outcome, step
