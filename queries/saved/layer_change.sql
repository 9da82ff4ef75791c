-- How much each block turns the state: cosine to the state one block below, for prompt and generated tokens.
-- title: Cosine to the state one layer below
-- mark: line
-- x: layer:Q  layer
-- y: mean_cos_prev_layer:Q  mean cosine to the layer below
-- color: part:N
-- tooltip: mean_delta_norm, mean_relative_update, tokens
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param site TEXT = resid_post  The site whose states to use.
SELECT
    l.layer,
    CASE WHEN l.position = 0 THEN 'first token' WHEN l.position < s.n_prompt_tokens THEN 'prompt' ELSE 'generated' END AS part,
    count(*) AS tokens,
    avg(l.cos_prev_layer) AS mean_cos_prev_layer,
    avg(l.delta_norm) AS mean_delta_norm,
    avg(l.delta_norm / nullif(l.l2_norm, 0)) AS mean_relative_update
FROM layer_summaries AS l
JOIN sequences AS s USING (run_id, sequence_id)
WHERE l.run_id = $run AND l.site = $site AND l.stack = 'decoder' AND isfinite(l.cos_prev_layer)
GROUP BY ALL
ORDER BY part DESC, l.layer
