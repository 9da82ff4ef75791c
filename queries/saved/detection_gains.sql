-- What each signal adds to the token probabilities (telemetry): the score of both together less that of telemetry alone,
-- with the interval of the same drawn prompts, and what it says. p is after Holm over signals. Made by `lake analyze detect`.
-- title: What signals add to telemetry
-- mark: point
-- x: signal:N
-- y: gain:Q  gain in AUROC
-- color: model:N
-- facet: score:N
-- band: gain_low, gain_high  95 % interval
-- tooltip: p_holm, sentence, value
-- reference: y 0
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param model TEXT = NULL  Only this kind of detector; all if not given.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'detect'
)
SELECT
    d.signal || coalesce(' (' || d.control || ')', '') AS signal,
    d.model,
    CASE d.score WHEN 'auroc' THEN 'overall' ELSE 'within prompts' END AS score,
    d.value,
    d.gain,
    d.gain_low,
    d.gain_high,
    d.p_holm,
    d.sentence
FROM detections AS d
JOIN chosen USING (analysis_id)
WHERE d.run_id = $run AND d.gain IS NOT NULL AND d.within IS NULL AND ($model IS NULL OR d.model = $model)
ORDER BY score, signal, d.model
