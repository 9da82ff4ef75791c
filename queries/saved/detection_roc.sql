-- ROC curves of detectors that had not seen the prompts: share of right answers found by share of wrong ones taken for
-- right, with bands over drawn prompts. Made by `lake analyze detect`.
-- title: ROC curves
-- mark: line
-- x: x:Q  wrong answers above the score
-- y: y:Q  right answers above the score
-- color: signal:N
-- band: low, high  95 % interval
-- scale: x 0..1, y 0..1
-- reference: diagonal
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param signals TEXT = telemetry,tracks,telemetry+tracks  Signals, separated by commas.
-- param model TEXT = logistic  Kind of detector.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'detect'
)
SELECT c.signal, c.model, c.x, c.y, c.low, c.high, c.n
FROM detection_curves AS c
JOIN chosen USING (analysis_id)
WHERE c.run_id = $run AND c.curve = 'roc' AND c.model = $model AND c.signal IN (SELECT unnest(string_split($signals, ',')))
ORDER BY c.signal, c.x
