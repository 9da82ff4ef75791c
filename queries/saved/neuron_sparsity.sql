-- How rarely neurons act: of each layer's neurons, how many have a significant effect in so many per cent of the
-- sequences. Needs `lake experiment second-order RUN`.
-- title: In how many sequences a neuron's effect is significant
-- mark: bar
-- x: share:Q  share of sequences (lower edge of 0.02)
-- y: neurons:Q  neurons
-- color: layer:O
-- cell: 0.02
-- tooltip: share_of_layer, below_5_percent
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses
    WHERE run_id = $run AND name = 'neuron-effects'
),
neurons AS (
    SELECT
        e.layer,
        floor(e.share_significant / 0.02) * 0.02 AS share,
        avg((e.share_significant < 0.05)::INT) OVER (PARTITION BY e.layer) AS below_5_percent,
        count(*) OVER (PARTITION BY e.layer) AS of_layer
    FROM neuron_effects AS e JOIN latest USING (analysis_id)
    WHERE e.run_id = $run AND e.mean_abs > 0
)
SELECT
    share,
    layer,
    count(*) AS neurons,
    count(*) / any_value(of_layer) AS share_of_layer,
    any_value(below_5_percent) AS below_5_percent
FROM neurons
GROUP BY layer, share
ORDER BY layer, share
