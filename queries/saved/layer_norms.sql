-- How the norm of the state grows from layer to layer; the first token is apart because it often carries a huge norm.
-- Geometric means; the band is one geometric standard deviation either way.
-- title: Norm of the state by layer
-- mark: line
-- x: layer:Q  layer
-- y: geometric_mean_l2_norm:Q  L2 norm, geometric mean (model units)
-- color: part:N
-- band: l2_norm_low, l2_norm_high  one geometric standard deviation either way
-- tooltip: mean_l2_norm, max_l2_norm, tokens
-- scale: y log
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param site TEXT = resid_post  The site whose states to use.
WITH prompts AS (
    SELECT sequence_id, n_prompt_tokens
    FROM sequences
    WHERE run_id = $run
),
-- Both sides are of one run, so the join need not compare run ids; parts are named after the grouping. Both for speed.
grouped AS (
    SELECT
        l.layer,
        l.position = 0 AS is_first,
        l.position < p.n_prompt_tokens AS is_prompt,
        count(*) AS tokens,
        avg(ln(l.l2_norm)) AS mean_log,
        stddev_samp(ln(l.l2_norm)) AS deviation_log,
        avg(l.l2_norm) AS mean_l2_norm,
        max(l.l2_norm) AS max_l2_norm
    FROM layer_summaries AS l
    JOIN prompts AS p USING (sequence_id)
    WHERE l.run_id = $run AND l.site = $site AND l.stack = 'decoder' AND isfinite(l.l2_norm) AND l.l2_norm > 0
    GROUP BY ALL
)
SELECT
    layer,
    CASE WHEN is_first THEN 'first token' WHEN is_prompt THEN 'prompt' ELSE 'generated' END AS part,
    tokens,
    exp(mean_log) AS geometric_mean_l2_norm,
    exp(mean_log - deviation_log) AS l2_norm_low,
    exp(mean_log + deviation_log) AS l2_norm_high,
    mean_l2_norm,
    max_l2_norm
FROM grouped
ORDER BY part DESC, layer
