-- One row per generated token and profile: its distribution, the states that led to it, and the flags of the step.
-- The states of step i are those of the token before it (`state_position` = `position` - 1): the ones that predict it.
-- Filter by `profile` and `run_id`. A flag is null where the run did not keep what it needs. In runs of kind `import`
-- what the reports measured stands in for what is not observed (`health_imports`).
-- column profile: The thresholds used; see `health_profiles`.
-- column position: Position of the generated token.
-- column state_position: Position whose states and attention led to the token.
-- column is_high_entropy: Whether the raw distribution's entropy is above the profile's bits.
-- column has_states: Whether the final-normed state that led to the token was kept.
-- column cos_prev_state: Cosine of the final-normed state that led to this token to the one that led to the token before; null at step 0.
-- column is_repeated: Whether that cosine is above the profile's; null at step 0.
-- column distribution: `raw`, or `sampling` where an imported report measured the distribution that was sampled from.
-- column early_norm: Baseline of the step: median or mean norm of the first third of the layers, in model units.
-- column mid_layer_threshold: Norm above which a middle layer is anomalous at this step, in model units.
-- column mid_layer_norm: Largest norm of the middle third of the layers, in model units.
-- column is_mid_layer_anomaly: Whether that norm is above the threshold, or a middle layer is not finite; null with fewer than 3 layers.
-- column n_heads: Attention heads with enough keys to be judged, over all layers.
-- column n_collapsed_bits: Of these, heads below the profile's entropy in bits.
-- column n_collapsed_normalised: Of these, heads below the profile's normalised entropy.
-- column has_collapsed_bits: Whether some head is below the profile's entropy in bits.
-- column n_focused: Of these, heads with a weight above the profile's.
-- column series_from: `stored` if the sequence has a row of `generation_series`, from which `health_verdicts` judges it; otherwise `rows`.
-- column collapsed_rate: Share of heads collapsed under the profile's rule.
WITH spans AS (
    SELECT
        s.run_id,
        s.sequence_id,
        s.n_prompt_tokens - 1 AS first_state,
        s.n_prompt_tokens + s.n_generated_tokens - 2 AS last_state,
        coalesce(r.kind = 'import', false) AS is_import,
        CASE WHEN r.n_layers >= 3 THEN r.n_layers // 3 END AS mid_from,
        CASE WHEN r.n_layers >= 3 THEN 2 * r.n_layers // 3 END AS mid_to,
        CASE WHEN g.sequence_id IS NULL THEN 'rows' ELSE 'stored' END AS series_from
    FROM sequences AS s
    JOIN runs AS r USING (run_id)
    LEFT JOIN generation_series AS g USING (run_id, sequence_id)
),
-- What led to the token at `position` was computed one position before. Each row is told apart once, before it is
-- grouped: a FILTER per aggregate would sort through all layers' rows again and again.
parts AS (
    SELECT
        l.run_id,
        l.sequence_id,
        l.position,
        s.series_from,
        CASE WHEN l.site = 'final_norm' THEN l.cos_prev_position END AS cos_prev_state,
        -- A report has numbers about that state, but no cosine to the one before.
        l.site = 'final_norm' AND NOT s.is_import AS is_final,
        CASE WHEN l.site = 'resid_post' AND l.layer < s.mid_from AND isfinite(l.l2_norm) THEN l.l2_norm::DOUBLE END AS early_norm,
        CASE WHEN l.site = 'resid_post' AND l.layer >= s.mid_from AND l.layer < s.mid_to THEN l.l2_norm END AS mid_norm,
        CASE WHEN l.site = 'resid_post' AND l.layer >= s.mid_from AND l.layer < s.mid_to THEN l.n_nan > 0 OR l.n_inf > 0 END AS is_mid_broken
    FROM layer_summaries AS l
    JOIN spans AS s USING (run_id, sequence_id)
    WHERE
        l.stack = 'decoder' AND l.position BETWEEN s.first_state AND s.last_state
        AND l.site IN ('final_norm', 'resid_post') AND (l.site = 'final_norm' OR l.layer < s.mid_to)
),
states AS (
    SELECT
        run_id,
        sequence_id,
        position + 1 AS position,
        series_from,
        any_value(cos_prev_state) AS cos_prev_state,
        bool_or(is_final) AS has_final,
        median(early_norm) AS early_median,
        avg(early_norm) AS early_mean,
        max(mid_norm) AS mid_norm,
        bool_or(is_mid_broken) AS mid_broken
    FROM parts
    GROUP BY run_id, sequence_id, position, series_from
),
tokens AS (
    SELECT
        t.run_id,
        t.sequence_id,
        t.step,
        t.position,
        t.token,
        s.series_from,
        t.entropy_bits IS NULL AND t.logprob IS NULL AND coalesce(t.sampling_entropy_bits, t.sampling_logprob) IS NOT NULL
        AND s.is_import AS is_sampling,
        CASE WHEN is_sampling THEN t.sampling_entropy_bits ELSE t.entropy_bits END AS entropy_bits,
        CASE WHEN is_sampling THEN -t.sampling_logprob / ln(2) ELSE t.surprisal_bits END::FLOAT AS surprisal_bits,
        coalesce(t.margin, m.margin)::FLOAT AS margin,
        coalesce(t.top10_mass, m.top10_mass)::FLOAT AS top10_mass,
        m.early_median AS prompt_early_median,
        m.early_mean AS prompt_early_mean,
        m.mid_layer_norm AS prompt_mid_norm,
        m.mid_layer_broken AS is_reported_broken,
        m.n_heads AS n_counted,
        m.n_collapsed_bits AS n_counted_bits,
        m.n_collapsed_normalised AS n_counted_normalised,
        m.n_focused AS n_counted_focused,
        m.least_entropy_bits
    FROM token_steps AS t
    JOIN spans AS s USING (run_id, sequence_id)
    LEFT JOIN health_imports AS m USING (run_id, sequence_id, step)
    WHERE t.step IS NOT NULL AND t.is_forced IS NOT TRUE
)
SELECT
    p.profile,
    t.run_id,
    t.sequence_id,
    t.step,
    t.position,
    t.position - 1 AS state_position,
    t.token,
    t.series_from,
    t.entropy_bits,
    t.surprisal_bits,
    t.margin,
    t.top10_mass,
    CASE WHEN t.is_sampling THEN 'sampling' ELSE 'raw' END AS distribution,
    CASE WHEN isfinite(t.entropy_bits) THEN t.entropy_bits > p.high_entropy_bits END AS is_high_entropy,
    coalesce(l.has_final, false) AS has_states,
    CASE WHEN t.step > 0 THEN l.cos_prev_state END AS cos_prev_state,
    CASE WHEN t.step > 0 AND l.has_final THEN coalesce(isfinite(l.cos_prev_state) AND l.cos_prev_state > p.repetition_cosine, false) END
        AS is_repeated,
    CASE p.mid_layer_baseline
        WHEN 'mean' THEN coalesce(l.early_mean, t.prompt_early_mean)
        ELSE coalesce(l.early_median, t.prompt_early_median)
    END AS early_norm,
    CASE
        WHEN coalesce(l.mid_broken, t.is_reported_broken) IS NOT NULL OR coalesce(l.mid_norm, t.prompt_mid_norm) IS NOT NULL
            THEN coalesce(early_norm * p.mid_layer_multiplier, p.mid_layer_fallback_norm)
    END AS mid_layer_threshold,
    coalesce(l.mid_norm, t.prompt_mid_norm)::FLOAT AS mid_layer_norm,
    CASE
        WHEN mid_layer_threshold IS NOT NULL
            THEN coalesce(l.mid_broken, false) OR coalesce(t.is_reported_broken, false) OR coalesce(mid_layer_norm > mid_layer_threshold, false)
    END AS is_mid_layer_anomaly,
    coalesce(h.n_judged, t.n_counted)::BIGINT AS n_heads,
    -- A report's counts are of one cut; another profile's cut would give others.
    coalesce(h.n_below_bits, CASE WHEN abs(p.collapsed_bits - 0.1 / ln(2)) < 1e-9 THEN t.n_counted_bits END)::BIGINT AS n_collapsed_bits,
    coalesce(h.n_below_normalised, CASE WHEN p.collapsed_normalised = 0.03 THEN t.n_counted_normalised END)::BIGINT
        AS n_collapsed_normalised,
    coalesce(n_collapsed_bits > 0, t.least_entropy_bits < p.collapsed_bits) AS has_collapsed_bits,
    coalesce(h.n_heavy, CASE WHEN p.focused_weight = 0.9 THEN t.n_counted_focused END)::BIGINT AS n_focused,
    CASE p.collapse_rule WHEN 'any_bits' THEN n_collapsed_bits ELSE n_collapsed_normalised END / nullif(n_heads, 0) AS collapsed_rate
FROM tokens AS t
CROSS JOIN health_profiles AS p
LEFT JOIN states AS l USING (run_id, sequence_id, position, series_from)
LEFT JOIN health_step_heads AS h USING (profile, run_id, sequence_id, position, series_from)
