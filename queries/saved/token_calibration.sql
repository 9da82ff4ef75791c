-- Do tokens come true as often as the model says? Probability of the top token against how often it was the token.
-- On the diagonal the model is calibrated. Prompts show it for given text; greedy completions are always at 1.
-- title: Calibration of the most probable token
-- mark: line
-- x: mean_top1_prob:Q  probability of the most probable token
-- y: share_top1:Q  share of tokens that were the most probable one
-- color: part:N
-- tooltip: tokens
-- scale: x 0..1, y 0..1
-- reference: diagonal
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param bins BIGINT = 10  Number of bins of probability.
SELECT
    CASE WHEN step IS NULL THEN 'prompt' ELSE 'generated' END AS part,
    least(floor(top1_prob * $bins), $bins - 1)::INTEGER AS bin,
    count(*) AS tokens,
    avg(top1_prob) AS mean_top1_prob,
    avg((rank = 0)::INTEGER) AS share_top1
FROM token_steps
WHERE run_id = $run AND isfinite(top1_prob) AND rank IS NOT NULL
GROUP BY ALL
ORDER BY part DESC, bin
