-- How each layer read the prompt: attention on its middle, how much the layer turned the states, and its surprisal.
-- One row per sequence and layer, and one more for the final norm, whose turn is never mixed into the last block's.
-- `transformation` is 1 minus the mean cosine to the state one block below; layer 0 compares with the embeddings.
-- The lists have one value per head, in order of heads. Below 0.3 the middle is neglected by the source's rule, but a
-- causal model stays near 0.31 with perfectly uniform attention: prefer the ratio to uniform. See docs/health.md.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
-- param sequence BIGINT = NULL  Only this sequence; all if not given.
WITH encoder AS (
    SELECT 1 + greatest(
        (SELECT max(layer) FROM layer_summaries WHERE run_id = $run AND stack = 'encoder'),
        (SELECT max(layer) FROM head_summaries WHERE run_id = $run AND stack = 'encoder')
    ) AS n_layers
),
prompts AS (
    SELECT
        s.sequence_id,
        s.n_prompt_tokens - coalesce(r.is_encoder_decoder, false)::INTEGER AS n_read,
        CASE WHEN r.is_encoder_decoder THEN 'encoder' ELSE 'decoder' END AS stack,
        -- `runs` has the number of the decoder's layers; an encoder may have another.
        CASE WHEN r.is_encoder_decoder THEN e.n_layers ELSE r.n_layers END AS n_layers
    FROM sequences AS s
    JOIN runs AS r USING (run_id)
    CROSS JOIN encoder AS e
    WHERE s.run_id = $run AND s.sequence_id BETWEEN coalesce($sequence, 0) AND coalesce($sequence, 9223372036854775807)
),
places AS (
    SELECT sequence_id, unnest(range(n_layers))::INTEGER AS layer, 'resid_post' AS site
    FROM prompts
    UNION ALL
    SELECT sequence_id, n_layers - 1, 'final_norm'
    FROM prompts
),
turns AS (
    SELECT
        l.sequence_id,
        l.layer,
        l.site,
        1 - avg(l.cos_prev_layer::DOUBLE) FILTER (WHERE isfinite(l.cos_prev_layer)) AS transformation
    FROM layer_summaries AS l
    JOIN prompts AS p USING (sequence_id, stack)
    WHERE l.run_id = $run AND l.position < p.n_read AND l.site IN ('resid_post', 'final_norm')
    GROUP BY l.sequence_id, l.layer, l.site
),
basins AS (
    SELECT
        h.sequence_id,
        h.layer,
        'resid_post' AS site,
        avg(h.basin_ratio) AS mean_basin_ratio,
        avg(h.basin_ratio_to_uniform) AS mean_basin_ratio_to_uniform,
        count(*) FILTER (WHERE h.basin_ratio < f.low_basin) AS heads_with_low_basin,
        list(h.basin_ratio ORDER BY h.head) AS basin_ratios,
        list(h.basin_ratio_to_uniform ORDER BY h.head) AS basin_ratios_to_uniform
    FROM head_summaries AS h
    JOIN prompts AS p USING (sequence_id, stack)
    JOIN health_profiles AS f ON f.profile = $profile
    WHERE h.run_id = $run AND h.kind = 'self' AND h.basin_ratio IS NOT NULL
    GROUP BY h.sequence_id, h.layer
),
surprisals AS (
    SELECT
        sequence_id,
        avg(surprisal_bits) AS prompt_surprisal_bits_mean,
        max(surprisal_bits) AS prompt_surprisal_bits_max
    FROM token_steps
    WHERE run_id = $run AND step IS NULL AND isfinite(surprisal_bits)
    GROUP BY sequence_id
)
SELECT
    sequence_id,
    layer,
    site,
    n_read AS prompt_tokens,
    transformation,
    mean_basin_ratio,
    mean_basin_ratio_to_uniform,
    heads_with_low_basin,
    basin_ratios,
    basin_ratios_to_uniform,
    prompt_surprisal_bits_mean,
    prompt_surprisal_bits_max,
    nullif(
        concat_ws(
            '; ',
            CASE WHEN transformation IS NULL THEN 'no cosine to the layer below (layers)' END,
            CASE WHEN mean_basin_ratio IS NULL AND site = 'resid_post' THEN 'no attention over the prompt (heads)' END,
            CASE
                WHEN prompt_surprisal_bits_mean IS NOT NULL THEN NULL
                WHEN stack = 'encoder' THEN 'an encoder predicts no token of the prompt'
                WHEN n_read < 2 THEN 'a prompt of one token has no predicted token'
                ELSE 'no distribution over the prompt (tokens)'
            END
        ),
        ''
    ) AS reason
FROM places
JOIN prompts USING (sequence_id)
LEFT JOIN turns USING (sequence_id, layer, site)
LEFT JOIN basins USING (sequence_id, layer, site)
LEFT JOIN surprisals USING (sequence_id)
ORDER BY sequence_id, layer, site DESC
