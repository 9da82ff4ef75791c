-- If only the surest answers are given: share of wrong ones among them, by the share that is given. Random abstention is
-- the level of the right end. Made by `lake analyze detect`.
-- title: Risk by coverage
-- mark: line
-- x: coverage:Q  answers given
-- y: risk:Q  wrong ones among them
-- color: signal:N
-- tooltip: threshold
-- scale: x 0..1, y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param signals TEXT = telemetry,tracks,telemetry+tracks,consistency  Signals, separated by commas.
-- param model TEXT = logistic  Kind of detector (signals with one of their own are always shown).
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'detect'
)
SELECT r.signal, r.model, r.coverage, r.risk, r.threshold
FROM risk_coverage AS r
JOIN chosen USING (analysis_id)
WHERE
    r.run_id = $run
    AND r.model NOT IN (SELECT m FROM unnest(['logistic', 'forest', 'boosting']) AS other(m) WHERE m != $model)
    AND r.signal IN (SELECT unnest(string_split($signals, ',')))
ORDER BY r.signal, r.coverage
