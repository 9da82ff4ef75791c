-- Is a detector right as often as it says? Share of right answers by the mean probability of each tenth, of detectors
-- that had not seen the prompts, with bands over drawn prompts. Made by `lake analyze detect`.
-- title: Calibration of detectors
-- mark: line
-- x: x:Q  mean probability
-- y: y:Q  share of right answers
-- color: signal:N
-- band: low, high  95 % interval
-- tooltip: n
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
WHERE
    c.run_id = $run AND c.curve = 'calibration' AND c.model = $model
    AND c.signal IN (SELECT unnest(string_split($signals, ',')))
ORDER BY c.signal, c.x
