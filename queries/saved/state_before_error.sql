-- The states just before the most surprising generated token of each graded completion: do wrong answers look
-- different from right ones, and from which layer on? The states that predict a token stand one position before it.
-- The relative update is the norm of a block's change over the norm of the result; the band is a 95 % interval.
-- title: Update by each layer before the most surprising token
-- mark: line
-- x: layer:Q  layer
-- y: mean_relative_update:Q  relative update of the state
-- color: outcome:N
-- band: update_low, update_high  95 % interval
-- tooltip: sequences, mean_cos_prev_position, mean_attn_entropy_bits
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param site TEXT = resid_post  The site whose states to use.
WITH graded AS (
    SELECT sequence_id, correct
    FROM sequences
    WHERE run_id = $run AND correct IS NOT NULL
),
peaks AS (
    SELECT t.sequence_id, g.correct, arg_max(t.position, t.surprisal_bits) - 1 AS position
    FROM token_steps AS t
    JOIN graded AS g USING (sequence_id)
    WHERE t.run_id = $run AND t.step IS NOT NULL AND t.is_forced IS NOT TRUE AND isfinite(t.surprisal_bits)
    GROUP BY ALL
),
-- The pairing of the view `predictions`, for one token per sequence: joining the few peaks is faster than all pairs.
states AS (
    SELECT
        l.layer,
        p.correct,
        l.delta_norm / nullif(l.l2_norm, 0) AS relative_update,
        l.cos_prev_position,
        l.attn_entropy_bits_mean
    FROM layer_summaries AS l
    JOIN peaks AS p USING (sequence_id, position)
    WHERE l.run_id = $run AND l.site = $site AND l.stack = 'decoder'
)
SELECT
    layer,
    CASE WHEN correct THEN 'correct' ELSE 'wrong' END AS outcome,
    count(*) AS sequences,
    avg(relative_update) AS mean_relative_update,
    avg(relative_update) - 1.96 * stddev_samp(relative_update) / sqrt(count(*)) AS update_low,
    avg(relative_update) + 1.96 * stddev_samp(relative_update) / sqrt(count(*)) AS update_high,
    avg(cos_prev_position) AS mean_cos_prev_position,
    avg(attn_entropy_bits_mean) AS mean_attn_entropy_bits
FROM states
WHERE isfinite(relative_update)
GROUP BY ALL
ORDER BY outcome, layer
