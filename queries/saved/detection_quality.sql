-- How well each signal tells labels of unseen prompts, overall and within prompts, beside its controls. An AUROC within
-- prompts compares a right and a wrong answer of one prompt, so difficulty does not help. Made by `lake analyze detect`.
-- title: Signals of right and wrong answers
-- mark: point
-- x: signal:N
-- y: value:Q  AUROC, unseen prompts
-- color: kind:N
-- facet: score:N
-- band: ci_low, ci_high  95 % interval
-- tooltip: model, control, ci_low, ci_high, n, n_prompts, reason
-- reference: y 0.5
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param model TEXT = NULL  Only this kind of detector; all if not given.
-- param within TEXT = NULL  Only inside this value, as level=value; all sequences if not given.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'detect'
)
SELECT
    d.signal,
    d.model,
    d.control,
    CASE WHEN d.control IS NULL THEN 'signal' ELSE d.control END AS kind,
    CASE d.score WHEN 'auroc' THEN 'overall' ELSE 'within prompts' END AS score,
    d.value,
    d.ci_low,
    d.ci_high,
    d.n,
    d.n_prompts,
    d.reason
FROM detections AS d
JOIN chosen USING (analysis_id)
WHERE d.run_id = $run AND d.score IN ('auroc', 'within_prompt_auroc') AND d.within IS NOT DISTINCT FROM $within
    AND ($model IS NULL OR d.model = $model)
ORDER BY score, d.signal, d.control NULLS FIRST, d.model
