-- Surprisal and entropy along one sequence: what each token cost, beside what the model expected it to cost.
-- Surprisal far above the entropy: the token was a surprise. Entropy high: the model was undecided there.
-- title: Entropy and surprisal along one sequence
-- mark: line
-- x: position:Q
-- y: bits:Q  bits
-- color: quantity:N
-- tooltip: token, part, rank, top1_prob
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
WITH quantities AS (
    SELECT
        position,
        step,
        token,
        rank,
        top1_prob,
        unnest(
            [{'quantity': 'entropy', 'bits': entropy_bits}, {'quantity': 'surprisal', 'bits': surprisal_bits}],
            recursive := true
        )
    FROM token_steps
    WHERE run_id = $run AND sequence_id = $sequence
)
SELECT
    position,
    quantity,
    bits,
    CASE WHEN step IS NULL THEN 'prompt' ELSE 'generated' END AS part,
    step,
    token,
    rank,
    top1_prob
FROM quantities
WHERE isfinite(bits)
ORDER BY quantity, position
