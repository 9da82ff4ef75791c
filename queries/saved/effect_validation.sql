-- What removing a neuron was predicted to do to the projection on the direction, and what it does: the mean over
-- problems, one point per neuron. Needs `lake analyze neuron-ablation RUN`.
-- title: Effects of neurons, predicted and measured
-- mark: point
-- x: predicted:Q  predicted, second order and direct
-- y: measured:Q  measured when the neuron is zero
-- color: layer:O
-- tooltip: neuron, predicted_second_order, predicted_direct, correlation, correlation_second_order, n_problems
-- reference: diagonal
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses
    WHERE run_id = $run AND name = 'neuron-ablation'
)
SELECT
    v.layer,
    v.neuron,
    v.predicted_second_order + v.predicted_direct AS predicted,
    v.measured,
    v.predicted_second_order,
    v.predicted_direct,
    v.correlation,
    v.correlation_second_order,
    v.n_problems
FROM effect_validation AS v
JOIN latest USING (analysis_id)
WHERE v.run_id = $run
ORDER BY v.layer, v.neuron
