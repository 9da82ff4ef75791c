-- How the norm of the state grows from layer to layer; the first token is apart because it often carries a huge norm.
-- title: Norm of the state by layer
-- mark: line
-- x: layer:Q  layer
-- y: median_l2_norm:Q
-- color: part:N
-- band: l2_norm_p10, l2_norm_p90
-- tooltip: mean_l2_norm, tokens
-- scale: y log
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param site TEXT = resid_post  The site whose states to use.
SELECT
    l.layer,
    CASE WHEN l.position = 0 THEN 'first token' WHEN l.position < s.n_prompt_tokens THEN 'prompt' ELSE 'generated' END AS part,
    count(*) AS tokens,
    median(l.l2_norm) AS median_l2_norm,
    avg(l.l2_norm) AS mean_l2_norm,
    quantile_cont(l.l2_norm, 0.1) AS l2_norm_p10,
    quantile_cont(l.l2_norm, 0.9) AS l2_norm_p90
FROM layer_summaries AS l
JOIN sequences AS s USING (run_id, sequence_id)
WHERE l.run_id = $run AND l.site = $site AND l.stack = 'decoder' AND isfinite(l.l2_norm)
GROUP BY ALL
ORDER BY part DESC, l.layer
