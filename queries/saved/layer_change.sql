-- How much each block turns the state: cosine to the state one block below, for prompt and generated tokens.
-- title: Cosine to the state one layer below
-- mark: line
-- x: layer:Q  layer
-- y: mean_cos_prev_layer:Q  mean cosine to the layer below
-- color: part:N
-- tooltip: mean_delta_norm, mean_relative_update, tokens
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
        avg(l.cos_prev_layer) AS mean_cos_prev_layer,
        avg(l.delta_norm) AS mean_delta_norm,
        avg(l.delta_norm / nullif(l.l2_norm, 0)) AS mean_relative_update
    FROM layer_summaries AS l
    JOIN prompts AS p USING (sequence_id)
    WHERE l.run_id = $run AND l.site = $site AND l.stack = 'decoder' AND isfinite(l.cos_prev_layer)
    GROUP BY ALL
)
SELECT
    layer,
    CASE WHEN is_first THEN 'first token' WHEN is_prompt THEN 'prompt' ELSE 'generated' END AS part,
    tokens,
    mean_cos_prev_layer,
    mean_delta_norm,
    mean_relative_update
FROM grouped
ORDER BY part DESC, layer
