-- The problems where one neuron does most to the direction, with their text and whether they were answered right.
-- Needs `lake experiment second-order RUN`.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param layer BIGINT = 0  The layer of the neuron.
-- param neuron BIGINT = 0  The neuron within the layer.
-- param top BIGINT = 10  How many problems.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses
    WHERE run_id = $run AND name = 'second-order'
)
SELECT
    s.sequence_id,
    round(e.vector[$neuron + 1], 3) AS effect,
    s.correct,
    s.predicted_answer,
    s.answer,
    s.prompt
FROM second_order_scores AS e
JOIN latest USING (analysis_id)
JOIN sequences AS s USING (run_id, sequence_id)
WHERE e.run_id = $run AND e.layer = $layer AND e.effect = 'second_order'
ORDER BY abs(e.vector[$neuron + 1]) DESC, s.sequence_id
LIMIT $top
