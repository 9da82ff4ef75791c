-- Do heads neglect the middle of the prompt? Attention on the middle third over the rest, against uniform attention.
-- Below 1 the middle gets less than uniform causal attention would give it.
-- title: Attention on the middle of the prompt, against uniform
-- mark: rect
-- x: head:Q
-- y: layer:Q
-- color: median_ratio_to_uniform:Q  ratio to uniform
-- tooltip: share_below_half, prompts
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
SELECT
    layer,
    head,
    count(*) AS prompts,
    median(basin_ratio_to_uniform) AS median_ratio_to_uniform,
    avg((basin_ratio_to_uniform < 0.5)::INTEGER) AS share_below_half
FROM head_summaries
WHERE run_id = $run AND kind = 'self' AND basin_ratio_to_uniform IS NOT NULL
GROUP BY layer, head
ORDER BY layer, head
