-- Where one other token moves the rest of an answer most: the divergence of each branch along one greedy answer.
-- Only whole windows are compared: short ones at the end diverge most by being short. Made by `lake analyze sensitivity`.
-- title: Path sensitivity along one answer
-- mark: bar
-- x: step:Q  step of the forced token
-- y: divergence:Q  distance of the means behind it (model units)
-- color: answer:N
-- facet: layer:O
-- tooltip: token, alternative, alternative_rank, margin, n_equal_tokens, branch_answer
-- scale: y free
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param layer BIGINT = NULL  Only this layer; the last one if not given.
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
    p.step,
    p.layer,
    t.token,
    a.token AS alternative,
    p.alternative_rank,
    p.margin,
    p.divergence,
    p.n_equal_tokens,
    p.branch_answer,
    CASE
        WHEN p.answer_changed IS NULL THEN 'cut before an answer'
        WHEN p.answer_changed THEN 'another answer'
        ELSE 'the same answer'
    END AS answer
FROM rows AS p
LEFT JOIN token_steps AS t ON p.run_id = t.run_id AND p.sequence_id = t.sequence_id AND p.position = t.position
LEFT JOIN token_steps AS a
    ON p.branch_run_id = a.run_id AND p.branch_sequence_id = a.sequence_id AND p.position = a.position
WHERE p.sequence_id = $sequence AND p.layer = coalesce($layer, (SELECT max(layer) FROM rows))
ORDER BY p.layer, p.step
