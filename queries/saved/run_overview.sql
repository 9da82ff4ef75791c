-- One run at a glance: model, how much was read and generated, how often it was right and how surprised it was.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH sequence_totals AS (
    SELECT
        run_id,
        count(*) AS sequences,
        count(DISTINCT prompt_id) AS prompts,
        sum(n_prompt_tokens) AS prompt_tokens,
        sum(n_generated_tokens) AS generated_tokens,
        count(correct) AS graded,
        avg(correct::INTEGER) AS accuracy,
        avg((finish_reason = 'length')::INTEGER) AS share_cut_by_length
    FROM sequences
    WHERE run_id = $run
    GROUP BY run_id
),
token_means AS (
    SELECT
        run_id,
        avg(surprisal_bits) FILTER (WHERE step IS NULL AND isfinite(surprisal_bits)) AS mean_prompt_surprisal_bits,
        avg(surprisal_bits) FILTER (WHERE step IS NOT NULL AND is_forced IS NOT TRUE AND isfinite(surprisal_bits)) AS mean_generated_surprisal_bits,
        avg(entropy_bits) FILTER (WHERE step IS NOT NULL AND is_forced IS NOT TRUE AND isfinite(entropy_bits)) AS mean_generated_entropy_bits
    FROM token_steps
    WHERE run_id = $run
    GROUP BY run_id
)
SELECT
    r.run_id,
    r.tag,
    r.kind,
    r.status,
    r.created_at,
    r.model,
    r.architecture,
    r.n_layers,
    r.n_heads,
    r.d_model,
    r.device,
    r.dtype,
    s.* EXCLUDE (run_id),
    t.* EXCLUDE (run_id)
FROM runs AS r
LEFT JOIN sequence_totals AS s USING (run_id)
LEFT JOIN token_means AS t USING (run_id)
WHERE r.run_id = $run
