-- Two runs side by side: how the entropy, the surprisal or another number of the generated tokens is distributed.
-- Values above the 99.5th percentile of both are in the last bin. Shares are of each run's own tokens, on a log axis
-- because most tokens of most runs lie near 0.
-- title: Distribution of {measure} in two runs
-- mark: line
-- x: value:Q  {measure}, middle of the bin
-- y: share:Q  share of generated tokens
-- color: of_run:N  run
-- tooltip: tokens
-- scale: y log
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param other RUN = NULL  The run to compare with; the newest run before it if not given.
-- param measure TEXT = entropy_bits  entropy_bits, surprisal_bits, top1_prob, margin or rank.
-- param bins BIGINT = 40  Number of bins.
WITH chosen AS (
    SELECT coalesce($other, arg_max(o.run_id, o.created_at)) AS other_run_id
    FROM runs AS r
    LEFT JOIN runs AS o ON o.run_id <> r.run_id AND o.created_at <= r.created_at AND o.status <> 'removed'
    WHERE r.run_id = $run
),
measured AS (
    SELECT
        run_id AS of_run,
        CASE $measure
            WHEN 'entropy_bits' THEN entropy_bits
            WHEN 'surprisal_bits' THEN surprisal_bits
            WHEN 'top1_prob' THEN top1_prob
            WHEN 'margin' THEN margin
            WHEN 'rank' THEN rank
        END::DOUBLE AS value
    FROM token_steps
    WHERE run_id IN ($run, (SELECT other_run_id FROM chosen)) AND step IS NOT NULL AND is_forced IS NOT TRUE
),
finite AS (
    SELECT of_run, value
    FROM measured
    WHERE isfinite(value)
),
span AS (
    SELECT coalesce(nullif(quantile_cont(value, 0.995), 0), 1) / greatest(1, $bins) AS width
    FROM finite
),
cells AS (
    SELECT f.of_run, least(floor(f.value / s.width), greatest(1, $bins) - 1) AS cell, any_value(s.width) AS width, count(*) AS tokens
    FROM finite AS f
    CROSS JOIN span AS s
    GROUP BY 1, 2
)
SELECT of_run, (cell + 0.5) * width AS value, tokens / sum(tokens) OVER (PARTITION BY of_run) AS share, tokens
FROM cells
ORDER BY of_run <> $run, of_run, value
