-- What is not finite, by kind of tensor and layer, and where it began: states, attention and distributions.
-- States count NaN and infinite elements; attention counts heads, distributions count tokens, that had no finite value.
-- No rows is good news.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH states AS (
    SELECT
        'state' AS tensor,
        layer,
        site,
        stack,
        sequence_id,
        position,
        n_nan AS nan_elements,
        n_inf AS infinite_elements,
        NULL AS not_finite
    FROM layer_summaries
    WHERE run_id = $run AND (n_nan > 0 OR n_inf > 0)
),
attention AS (
    SELECT kind || '-attention' AS tensor, layer, NULL AS site, stack, sequence_id, position, NULL, NULL, count(*)
    FROM head_summaries
    WHERE run_id = $run AND max_weight IS NULL
    GROUP BY kind, layer, stack, sequence_id, position
),
-- A token that a distribution chose or predicted has a rank, unless that distribution was not finite.
kept AS (
    SELECT run_id, sequence_id, min(position) AS first_position
    FROM token_steps
    WHERE run_id = $run AND rank IS NOT NULL
    GROUP BY run_id, sequence_id
),
distributions AS (
    SELECT 'distribution' AS tensor, NULL AS layer, NULL AS site, t.stack, t.sequence_id, t.position, NULL, NULL, 1
    FROM token_steps AS t
    JOIN kept AS k USING (run_id, sequence_id)
    WHERE t.rank IS NULL AND t.position > k.first_position
),
broken AS (
    SELECT
        'distribution' AS tensor,
        NULL AS layer,
        NULL AS site,
        'decoder' AS stack,
        sequence_id,
        n_prompt_tokens + n_generated_tokens AS position,
        NULL,
        NULL,
        1
    FROM sequences
    WHERE run_id = $run AND finish_reason = 'broken'
)
SELECT
    tensor,
    layer,
    site,
    stack,
    sum(nan_elements)::BIGINT AS nan_elements,
    sum(infinite_elements)::BIGINT AS infinite_elements,
    sum(not_finite)::BIGINT AS not_finite,
    count(DISTINCT (sequence_id, position)) AS tokens,
    count(DISTINCT sequence_id) AS sequences,
    min(sequence_id) AS first_sequence_id,
    arg_min(position, (sequence_id, position)) AS first_position
FROM (SELECT * FROM states UNION ALL SELECT * FROM attention UNION ALL SELECT * FROM distributions UNION ALL SELECT * FROM broken)
GROUP BY tensor, layer, site, stack
ORDER BY tensor DESC, layer, site, stack
