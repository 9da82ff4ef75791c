-- One sequence token by token and layer by layer: how much each block changed the state that it read.
-- The relative update is the norm of the change over the norm of the result; hover for the token read, the token
-- predicted and its surprisal.
-- title: Update of the state by position and layer
-- mark: rect
-- x: position:Q  position of the token read
-- y: layer:Q
-- color: relative_update:Q  relative update
-- labels: x token
-- tooltip: token, next_token, next_surprisal_bits, l2_norm, cos_prev_layer
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param site TEXT = resid_post  The site whose states to use.
SELECT
    p.position,
    p.layer,
    t.token,
    p.next_token,
    p.next_surprisal_bits,
    p.l2_norm,
    p.cos_prev_layer,
    p.delta_norm / nullif(p.l2_norm, 0) AS relative_update
FROM predictions AS p
JOIN token_steps AS t USING (run_id, sequence_id, position)
WHERE p.run_id = $run AND p.sequence_id = $sequence AND p.site = $site
ORDER BY p.layer, p.position
