-- Every neuron of one layer: how strongly it acts (the ranking's score) against what it does through later heads. A
-- neuron may be large and do nothing to the direction. Needs `lake experiment neurons RUN` and `second-order RUN`.
-- title: Ranking against second-order effect, layer {layer}
-- mark: point
-- x: ranking_score:Q  ranking score
-- y: mean_abs:Q  mean size of the second-order effect
-- color: difference:Q  right minus wrong
-- scale: color diverging
-- tooltip: neuron, rank, mean, share_significant, direct_effect, p_holm
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param layer BIGINT = 0  The layer of the neurons.
WITH effects AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses
    WHERE run_id = $run AND name = 'neuron-effects'
),
ranks AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses WHERE run_id = $run AND name = 'neurons'
)
SELECT
    e.neuron,
    r.score AS ranking_score,
    r.rank,
    e.mean_abs,
    e.mean,
    e.difference,
    e.p_holm,
    e.share_significant,
    e.direct_effect
FROM neuron_effects AS e
JOIN effects ON effects.analysis_id = e.analysis_id
JOIN neuron_ranks AS r ON r.run_id = e.run_id AND r.layer = e.layer AND r.neuron = e.neuron
JOIN ranks ON ranks.analysis_id = r.analysis_id
WHERE e.run_id = $run AND e.layer = $layer
ORDER BY e.mean_abs DESC, e.neuron
