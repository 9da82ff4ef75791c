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
WITH binned AS (
    SELECT
        step IS NULL AS is_prompt,
        least(floor(top1_prob * $bins::FLOAT), $bins::FLOAT - 1)::INTEGER AS bin,
        count(*) AS tokens,
        avg(top1_prob) AS mean_top1_prob,
        count(*) FILTER (WHERE rank = 0) AS top1_tokens
    FROM token_steps
    WHERE run_id = $run AND is_forced IS NOT TRUE AND isfinite(top1_prob) AND rank IS NOT NULL
    GROUP BY ALL
)
SELECT
    CASE WHEN is_prompt THEN 'prompt' ELSE 'generated' END AS part,
    bin,
    tokens,
    mean_top1_prob,
    top1_tokens / tokens AS share_top1
FROM binned
ORDER BY part DESC, bin
