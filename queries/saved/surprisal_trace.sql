-- Surprisal of every token along one sequence: where the text was not what the model expected.
-- The entropy beside it is the surprisal that the model expected before it saw the token.
-- title: Surprisal along one sequence
-- mark: line
-- x: position:Q
-- y: surprisal_bits:Q
-- color: part:N
-- tooltip: token, entropy_bits, rank, step
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
SELECT
    position,
    CASE WHEN step IS NULL THEN 'prompt' ELSE 'generated' END AS part,
    step,
    token,
    surprisal_bits,
    entropy_bits,
    rank,
    top1_prob
FROM token_steps
WHERE run_id = $run AND sequence_id = $sequence AND surprisal_bits IS NOT NULL
ORDER BY position
