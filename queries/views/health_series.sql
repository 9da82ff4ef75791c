-- One row per profile and sequence that has a row of `generation_series`: its series judged by the profile's thresholds.
-- What `health_verdicts` gathers from `health_steps` for other sequences. Filter by `profile` and `run_id`.
-- column profile: The thresholds used; see `health_profiles`.
-- column is_counted: Whether heads were counted by the cuts of the profile; otherwise what is said of them here does not count.
-- column entropies: Finite entropies of the generated steps, in bits, in order.
-- column margins: Finite margins, in order.
-- column surprisals: Finite surprisals, in bits, in order.
-- column masses: Finite masses of the ten best tokens, in order.
-- column repeats: One letter per step: 1 if its state repeats the one before.
-- column high_entropy_steps: Generated steps of high entropy.
-- column n_mid_layer_steps: Steps whose middle layers can be judged.
-- column mid_layer_steps: Of these, steps with an anomalous middle layer.
-- column mid_layer_first_position: Position of the first token that such a state led to.
-- column collapse_any: Whether some head is below the profile's entropy in bits at some step.
-- column has_rates: Whether heads were counted at some step.
-- column rates: Share of heads below the profile's normalised entropy, of the steps that have heads to judge.
-- column collapsed_rate: Mean over steps of the share of heads collapsed under the profile's rule.
-- column focused_rate: Mean over steps of the share of focused heads.
WITH judged AS (
    SELECT
        p.profile,
        p.collapse_rule,
        g.*,
        coalesce(
            abs(g.collapsed_bits - p.collapsed_bits) < 1e-12 AND g.collapsed_normalised = p.collapsed_normalised
            AND g.min_keys = p.min_keys AND list_contains(g.focused_weights, p.focused_weight),
            false
        ) AS is_counted,
        g.focused_rates[list_position(g.focused_weights, p.focused_weight)] AS focused_rate,
        len(list_filter(g.entropies, lambda bits: bits > p.high_entropy_bits)) AS high_entropy_steps,
        array_to_string([CASE WHEN cosine > p.repetition_cosine THEN '1' ELSE '0' END FOR cosine IN g.state_cosines], '') AS repeats,
        CASE p.mid_layer_baseline WHEN 'mean' THEN g.early_means ELSE g.early_medians END AS early_norms,
        list_transform(
            g.mid_norms,
            lambda norm, i: CASE
                WHEN norm IS NOT NULL OR g.mid_damaged[i] IS NOT NULL
                    THEN coalesce(g.mid_damaged[i] > 0, false)
                    OR coalesce(norm > coalesce(early_norms[i] * p.mid_layer_multiplier, p.mid_layer_fallback_norm), false)
            END
        ) AS anomalies,
        list_transform(g.n_collapsed_bits, lambda heads, i: heads / nullif(g.n_heads[i], 0)) AS rates_bits,
        list_transform(g.n_collapsed_normalised, lambda heads, i: heads / nullif(g.n_heads[i], 0)) AS rates_normalised
    FROM generation_series AS g
    CROSS JOIN health_profiles AS p
)
SELECT
    profile,
    run_id,
    sequence_id,
    nullif(n_steps, 0) AS n_steps,
    has_nan,
    has_inf,
    has_states,
    is_counted,
    nullif(entropies, [])::DOUBLE[] AS entropies,
    nullif(margins, [])::DOUBLE[] AS margins,
    nullif(surprisals, [])::DOUBLE[] AS surprisals,
    nullif(masses, [])::DOUBLE[] AS masses,
    entropy_slope,
    margin_slope,
    surprisal_slope,
    entropy_margin_correlation,
    repeats,
    high_entropy_steps,
    list_count(anomalies) AS n_mid_layer_steps,
    len(list_filter(anomalies, lambda is_anomalous: is_anomalous)) AS mid_layer_steps,
    positions[list_position(anomalies, true)] AS mid_layer_first_position,
    mean_basin_ratio,
    list_max(n_collapsed_bits) > 0 AS collapse_any,
    list_count(n_collapsed_normalised) > 0 AS has_rates,
    nullif(list_filter(rates_normalised, lambda rate: rate IS NOT NULL), []) AS rates,
    list_avg(CASE collapse_rule WHEN 'any_bits' THEN rates_bits ELSE rates_normalised END) AS collapsed_rate,
    focused_rate
FROM judged
