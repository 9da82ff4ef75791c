-- Which later heads carry what neurons do to the direction: the mean size of the effect from the neurons of one layer
-- through the heads of another, and the head that carries most of it. Needs `lake experiment second-order RUN --by head`.
-- title: Second-order effect from layer to layer
-- mark: rect
-- x: layer_to:Q  layer of the heads
-- y: layer_from:Q  layer of the neurons
-- color: mass:Q  sum of mean sizes
-- tooltip: top_head, top_head_share, neurons
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses
    WHERE run_id = $run AND name = 'second-order'
        AND analysis_id IN (SELECT analysis_id FROM second_order_heads WHERE run_id = $run)
),
by_head AS (
    SELECT h.layer_from, h.layer_to, h.head, sum(h.mean_abs) AS mass, count(*) AS neurons
    FROM second_order_heads AS h JOIN latest USING (analysis_id)
    WHERE h.run_id = $run
    GROUP BY h.layer_from, h.layer_to, h.head
)
SELECT
    layer_to,
    layer_from,
    sum(mass) AS mass,
    max_by(head, mass) AS top_head,
    max(mass) / nullif(sum(mass), 0) AS top_head_share,
    max(neurons) AS neurons
FROM by_head
GROUP BY layer_from, layer_to
ORDER BY layer_from, layer_to
