-- What the sampling settings do to the model's own distribution: mean entropy of both, by generation step.
-- Only tokens that were sampled have both. Equal lines mean temperature 1 without cuts.
-- title: Entropy of the model's and of the sampled distribution
-- mark: line
-- x: step:Q
-- y: mean_entropy_bits:Q
-- color: distribution:N
-- tooltip: tokens
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param min_tokens BIGINT = 5  Leave out steps with fewer sampled tokens.
WITH means AS (
    SELECT
        step,
        count(*) AS tokens,
        avg(entropy_bits) AS "of the model",
        avg(sampling_entropy_bits) AS "sampled from"
    FROM token_steps
    WHERE run_id = $run AND step IS NOT NULL AND isfinite(sampling_entropy_bits) AND isfinite(entropy_bits)
    GROUP BY step
    HAVING count(*) >= $min_tokens
)
SELECT step, tokens, distribution, mean_entropy_bits
FROM means UNPIVOT (mean_entropy_bits FOR distribution IN ("of the model", "sampled from"))
ORDER BY distribution, step
