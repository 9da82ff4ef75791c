-- Where neurons act on the direction through later heads, and how concentrated that is: each layer's share of all
-- second-order effect (mean sizes of its neurons), and the share that its strongest tenth holds.
-- Needs `lake experiment second-order RUN`.
-- title: Second-order effect by layer
-- mark: bar
-- x: layer:O
-- y: share:Q  share of all effect
-- tooltip: mass, share_of_top_tenth, direct_mass, neurons, significant_share
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses
    WHERE run_id = $run AND name = 'neuron-effects'
),
ranked AS (
    SELECT
        e.layer,
        e.mean_abs,
        abs(e.direct_effect) AS direct,
        e.share_significant,
        percent_rank() OVER (PARTITION BY e.layer ORDER BY e.mean_abs DESC) < 0.1 AS is_top
    FROM neuron_effects AS e JOIN latest USING (analysis_id)
    WHERE e.run_id = $run
)
SELECT
    layer,
    sum(mean_abs) / nullif(sum(sum(mean_abs)) OVER (), 0) AS share,
    sum(mean_abs) AS mass,
    sum(mean_abs) FILTER (WHERE is_top) / nullif(sum(mean_abs), 0) AS share_of_top_tenth,
    sum(direct) AS direct_mass,
    count(*) AS neurons,
    avg(share_significant) AS significant_share
FROM ranked
GROUP BY layer
ORDER BY layer
