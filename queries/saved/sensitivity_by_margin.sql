-- Whether close choices are the sensitive ones: divergence against how much less probable the forced token was.
-- A point is a branch; only whole windows count. Made by `lake analyze sensitivity`.
-- title: Path sensitivity against the margin of the choice
-- mark: point
-- x: margin:Q  log-probability of the chosen less that of the forced token (nats)
-- y: divergence:Q  distance of the means behind it (model units)
-- color: answer:N
-- tooltip: sequence_id, step, alternative_rank, n_equal_tokens, baseline_answer, branch_answer
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param layer BIGINT = NULL  The layer; the last one if not given.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'sensitivity'
),
rows AS (
    SELECT p.*
    FROM path_sensitivity AS p
    JOIN chosen USING (analysis_id)
    WHERE p.run_id = $run AND p.complete
)
SELECT
    sequence_id,
    step,
    margin,
    divergence,
    alternative_rank,
    n_equal_tokens,
    baseline_answer,
    branch_answer,
    CASE
        WHEN answer_changed IS NULL THEN 'cut before an answer'
        WHEN answer_changed THEN 'another answer'
        ELSE 'the same answer'
    END AS answer
FROM rows
WHERE margin IS NOT NULL AND layer = coalesce($layer, (SELECT max(layer) FROM rows))
ORDER BY sequence_id, step
