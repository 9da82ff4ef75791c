-- Which layers decide: the mean contribution of each layer's attention and MLP to the logit of the best token over the
-- second, with the interval of its mean over sequences (twice the standard error). Needs `lake analyze attribution RUN`.
-- title: Contribution to the choice by layer
-- mark: line
-- x: layer:Q
-- y: mean_contribution:Q  mean contribution (logits)
-- color: part:N
-- band: low, high  two standard errors over sequences
-- tooltip: points, sequences, mean_size
-- reference: y 0
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses WHERE run_id = $run AND name = 'attribution'
),
per_sequence AS (
    SELECT
        c.sequence_id,
        c.part,
        c.layer,
        count(*) AS points,
        avg(c.contribution) AS contribution,
        avg(abs(c.contribution)) AS size
    FROM logit_contributions AS c
    JOIN latest USING (analysis_id)
    WHERE c.run_id = $run AND c.part IN ('attn_out', 'mlp_out')
    GROUP BY c.sequence_id, c.part, c.layer
)
SELECT
    layer,
    part,
    sum(points) AS points,
    count(*) AS sequences,
    avg(contribution) AS mean_contribution,
    avg(size) AS mean_size,
    avg(contribution) - 2 * stddev_samp(contribution) / sqrt(count(*)) AS low,
    avg(contribution) + 2 * stddev_samp(contribution) / sqrt(count(*)) AS high
FROM per_sequence
GROUP BY layer, part
ORDER BY part, layer
