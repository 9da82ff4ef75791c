-- How much each block turns the state, token by token: cosine to the state one layer below, in one sequence.
-- A column belongs to the token that was read there; the token that its states predict is in the tooltip. The first
-- token often carries a norm of its own kind.
-- title: Cosine to the layer below, by position and layer
-- mark: rect
-- x: position:Q  position of the token read
-- y: layer:Q
-- color: cos_prev_layer:Q  cosine to the layer below
-- labels: x token
-- tooltip: token, next_token, l2_norm, delta_norm
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param site TEXT = resid_post  The site whose states to use.
SELECT
    l.position,
    l.layer,
    t.token,
    n.token AS next_token,
    l.l2_norm,
    l.cos_prev_layer,
    l.delta_norm
FROM layer_summaries AS l
LEFT JOIN token_steps AS t USING (run_id, sequence_id, position)
LEFT JOIN token_steps AS n
    ON n.run_id = l.run_id AND n.sequence_id = l.sequence_id AND n.position = l.position + 1 AND n.stack = l.stack
WHERE l.run_id = $run AND l.sequence_id = $sequence AND l.site = $site AND isfinite(l.cos_prev_layer)
ORDER BY l.layer, l.position
