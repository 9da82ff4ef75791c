-- The states just before the most surprising generated token of each graded completion: do wrong answers look
-- different from right ones, and from which layer on? The states that predict a token stand one position before it.
-- The relative update is the norm of a block's change over the norm of the result; the band is a 95 % interval.
-- title: Update by each layer before the most surprising token
-- mark: line
-- x: layer:Q  layer
-- y: mean_relative_update:Q  relative update of the state
-- color: outcome:N
-- band: update_low, update_high
-- tooltip: sequences, mean_cos_prev_position, mean_attn_entropy_bits
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param site TEXT = resid_post  The site whose states to use.
WITH peaks AS (
    SELECT run_id, sequence_id, outcome, arg_max(position, surprisal_bits) - 1 AS position
    FROM generated_tokens
    WHERE run_id = $run AND correct IS NOT NULL AND isfinite(surprisal_bits)
    GROUP BY ALL
),
states AS (
    SELECT *, delta_norm / nullif(l2_norm, 0) AS relative_update
    FROM predictions
    WHERE run_id = $run AND site = $site
)
SELECT
    s.layer,
    p.outcome,
    count(*) AS sequences,
    avg(s.relative_update) AS mean_relative_update,
    avg(s.relative_update) - 1.96 * stddev_samp(s.relative_update) / sqrt(count(*)) AS update_low,
    avg(s.relative_update) + 1.96 * stddev_samp(s.relative_update) / sqrt(count(*)) AS update_high,
    avg(s.cos_prev_position) AS mean_cos_prev_position,
    avg(s.attn_entropy_bits_mean) AS mean_attn_entropy_bits
FROM states AS s
JOIN peaks AS p USING (run_id, sequence_id, position)
WHERE isfinite(s.relative_update)
GROUP BY ALL
ORDER BY p.outcome, s.layer
