-- Which columns of a signal matter: what the AUROC of unseen prompts loses when a column is permuted among the held-out
-- answers. Made by `lake analyze detect`.
-- title: Importance of columns
-- mark: bar
-- x: value:Q  AUROC lost
-- y: column_name:N
-- tooltip: ci_low, ci_high, signal, model
-- reference: x 0
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param signal TEXT = tracks  The signal.
-- param model TEXT = logistic  Kind of detector.
-- param most BIGINT = 20  How many columns.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'detect'
)
SELECT i.signal, i.model, i."column" AS column_name, i.value, i.ci_low, i.ci_high
FROM detection_importances AS i
JOIN chosen USING (analysis_id)
WHERE i.run_id = $run AND i.signal = $signal AND i.model = $model
ORDER BY i.value DESC, column_name
LIMIT $most
