-- One row per sequence and profile: risk scores, early warnings and compound signals, beside the flags they come from.
-- Filter by `profile` and `run_id`. A score is null where one of its parts is unknown, since a smaller sum would look
-- like a smaller risk; but a broken or not finite sequence has risk 1 whatever else is known. Formulas: docs/health.md.
-- column profile: The thresholds used; see `health_profiles`.
-- column n_steps: Generated tokens that have a row.
-- column is_broken: Whether generation ended because the sampling distribution was not finite.
-- column has_nan: Whether any state of the sequence, prompt included, has a NaN element.
-- column has_inf: Whether any state of the sequence, prompt included, has an infinite element.
-- column high_entropy_steps: Generated steps of high entropy.
-- column high_entropy_fraction: Their share of the generated steps that have an entropy.
-- column attention_collapse: The collapse flag under the profile's own rule.
-- column attention_collapse_any: Rule set v0.3: some head at some step below the profile's bits.
-- column attention_collapse_trend: Rule set v0.5: the share of collapsed heads rises, or is catastrophic.
-- column attention_collapse_severity: Severity of the v0.5 rule: 0.2 rising, 0.4 steeply rising, 0.8 catastrophic; null if it did not fire.
-- column collapsed_rate: Mean over steps of the share of heads collapsed under the profile's rule.
-- column focused_rate: Mean over steps of the share of focused heads.
-- column repetition_loop: Whether enough repeated pairs follow each other.
-- column repetition_first_position: Position of the first state of the first loop that repeats the state before it.
-- column repetition_longest: Repeated pairs in the longest row of them.
-- column mid_layer_anomaly: Whether a middle layer is anomalous at some step; null with fewer than 3 layers.
-- column mid_layer_first_position: Position of the first token that such a state led to.
-- column mid_layer_steps: Number of such steps.
-- column mean_basin_ratio: Mean basin ratio over the heads that read the prompt.
-- column n_layers: Layers of the model.
-- column entropies: Finite entropies of the generated steps, in bits, in order.
-- column margins: Finite margins, in order.
-- column surprisals: Finite surprisals, in bits, in order.
-- column masses: Finite masses of the ten best tokens, in order.
-- column entropy_slope: Least-squares slope of the entropy over steps, in bits per step.
-- column margin_slope: Least-squares slope of the margin over steps.
-- column surprisal_slope: Least-squares slope of the surprisal over steps, in bits per step.
-- column entropy_margin_correlation: Pearson correlation of entropy and margin over steps; null if one does not vary.
-- column reason: What could not be judged, and why; null if all could.
-- column compound: Compound signals that fired, with their severities.
-- column compound_signals: Their names; null where entropies or heads were not kept.
-- column risk_v04: The older risk score, of flags and high-entropy steps only; 0 to 1.
-- column risk_v04_factors: Names of what made it.
-- column risk_v05: The newer risk score, of flags, series and compound signals; 0 to 1.
-- column risk_v05_factors: Names of what made it.
-- column early_warning_v04: The older early warning: 0.9 repetition, 0.6 rising high entropy, otherwise 0.3.
-- column early_warning_v04_signals: Names of what speaks for it.
-- column early_warning_v05: The newer early warning: largest of its signals' values; 0 if none fired.
-- column early_warning_v05_signals: Names of its signals that fired.
WITH series AS (
    SELECT
        v.*,
        s.finish_reason,
        s.n_prompt_tokens,
        p.high_entropy_bits,
        p.low_basin,
        len(v.entropies) AS n,
        v.has_nan OR v.has_inf OR v.is_broken AS not_finite,
        -- Every part of the scores is known; a model without middle layers has no anomaly there.
        v.entropies IS NOT NULL AND v.margins IS NOT NULL AND v.surprisals IS NOT NULL AND v.masses IS NOT NULL
        AND v.repetition_loop IS NOT NULL AND v.attention_collapse IS NOT NULL
        AND coalesce(v.mid_layer_anomaly IS NOT NULL OR v.n_layers < 3, false) AS complete,
        coalesce(v.mid_layer_anomaly, false) AS mid_layer,
        list_avg(v.entropies) AS entropy_mean,
        list_avg(v.entropies[-5:]) AS entropy_last,
        list_avg(v.entropies[1:n // 3]) AS entropy_first_third,
        list_avg(v.entropies[n - n // 3 + 1:]) AS entropy_last_third,
        list_avg(v.margins) AS margin_mean,
        list_avg(v.margins[-5:]) AS margin_last,
        list_avg(v.surprisals) AS surprisal_mean,
        list_avg(v.surprisals[-5:]) AS surprisal_last,
        list_avg(v.masses) AS mass_mean,
        list_avg(v.masses[-5:]) AS mass_last
    FROM health_verdicts AS v
    JOIN health_profiles AS p USING (profile)
    JOIN sequences AS s USING (run_id, sequence_id)
),
fired AS (
    SELECT
        *,
        list_filter(
            [
                {'name': 'context_loss', 'severity': 0.75::DOUBLE, 'on': entropy_last > 4 AND mean_basin_ratio < low_basin},
                {'name': 'confident_confusion', 'severity': 0.5, 'on': entropy_last > 4 AND margin_last > 0.3},
                {
                    'name': 'degenerating_generation',
                    'severity': 0.7,
                    'on': least(n, len(margins), len(surprisals)) >= 10
                    AND entropy_slope > 0.05 AND margin_slope < -0.01 AND surprisal_slope > 0.05
                },
                {'name': 'attention_bottleneck', 'severity': 0.65, 'on': collapsed_rate > 0.2 AND entropy_mean > 3.5},
                {
                    'name': 'confident_repetition_risk',
                    'severity': 0.4,
                    'on': entropy_last < 2 AND surprisal_last < 1 AND mass_last > 0.95
                }
            ],
            lambda signal: coalesce(signal.on, false)
        ) AS compound,
        list_filter(
            [
                {'name': 'repetition_loop', 'value': 0.9::DOUBLE, 'on': repetition_loop},
                {'name': 'mid_layer_anomaly', 'value': 0.7, 'on': mid_layer},
                {
                    'name': 'attention_collapse',
                    'value': CASE WHEN attention_collapse THEN coalesce(attention_collapse_severity, 0.15) END,
                    'on': attention_collapse
                }
            ],
            lambda part: coalesce(part.on, false)
        ) AS flag_parts,
        list_filter(
            [
                {'name': 'elevated_entropy', 'value': 0.3 * least(1, entropy_mean / 8), 'cut': 0.05::DOUBLE},
                {
                    'name': 'entropy_rising',
                    'value': CASE
                        WHEN n >= 6 AND entropy_first_third > 1e-9 AND entropy_last_third > 1.3::DOUBLE * entropy_first_third
                            THEN least(0.2, 0.1 * (entropy_last_third - entropy_first_third) / entropy_first_third)
                    END,
                    'cut': 0
                },
                {'name': 'low_confidence_margin', 'value': 0.2 * greatest(0, 1 - 5 * margin_mean), 'cut': 0.05},
                {'name': 'low_topk_mass', 'value': 0.15 * greatest(0, 1 - mass_mean), 'cut': 0.03},
                {'name': 'elevated_surprisal', 'value': least(0.1, surprisal_mean / 10), 'cut': 0.02}
            ],
            lambda part: coalesce(part.value > part.cut, false)
        ) AS series_parts,
        list_filter(
            [
                {
                    'name': 'entropy_accelerating',
                    'value': 0.7::DOUBLE,
                    -- Means of windows of 5 differ by (entropy in - entropy out) / 5.
                    'on': n >= 10
                    AND entropies[n] > entropies[n - 5] AND entropies[n - 1] > entropies[n - 6] AND entropies[n - 2] > entropies[n - 7]
                    AND entropies[n] - entropies[n - 5] > entropies[n - 2] - entropies[n - 7]
                },
                {'name': 'margin_collapsed', 'value': 0.6, 'on': len(margins) >= 5 AND list_max(margins[-5:]) < 0.1},
                {
                    'name': 'margin_declining',
                    'value': 0.5,
                    'on': len(margins) >= 10 AND NOT list_max(margins[-5:]) < 0.1 AND list_avg(margins[1:5]) > 0
                    AND margin_last / list_avg(margins[1:5]) < 0.3
                },
                {
                    'name': 'surprisal_volatile',
                    'value': 0.5,
                    'on': len(surprisals) >= 5 AND surprisal_last > 0
                    AND list_stddev_samp(surprisals[-5:]) / surprisal_last > 1.5
                },
                {
                    'name': 'entropy_margin_divergence',
                    'value': 0.55,
                    'on': n >= 5 AND len(margins) >= 5 AND entropy_last > high_entropy_bits AND margin_last > 0.3
                },
                {'name': 'repetition_loop', 'value': 0.9, 'on': repetition_loop},
                {'name': 'mid_layer_anomaly', 'value': 0.6, 'on': mid_layer},
                {'name': 'attention_collapse', 'value': 0.4, 'on': attention_collapse}
            ],
            lambda signal: coalesce(signal.on, false)
        ) AS warnings,
        CASE
            WHEN n >= 5 THEN list_avg(entropies[-5:]) > list_avg(entropies[1:5])
            ELSE coalesce(entropies[-1] > entropies[1], false)
        END AS is_rising
    FROM series
)
SELECT
    * EXCLUDE (
        high_entropy_bits, low_basin, n, complete, mid_layer, not_finite, is_rising, flag_parts, series_parts, warnings,
        entropy_last, entropy_first_third, entropy_last_third, margin_last, surprisal_last, mass_last,
        entropy_mean, margin_mean, surprisal_mean, mass_mean
    ),
    CASE WHEN entropies IS NOT NULL AND attention_collapse IS NOT NULL THEN array_to_string([signal.name FOR signal IN compound], ', ') END
        AS compound_signals,
    CASE
        WHEN not_finite THEN 1
        WHEN complete
            THEN least(
                1,
                greatest(0.9 * repetition_loop::INTEGER, 0.7 * mid_layer::INTEGER, 0.3 * attention_collapse::INTEGER)
                + 0.5 * least(1, high_entropy_steps / greatest(1, n_prompt_tokens + n_steps))
            )
    END::DOUBLE AS risk_v04,
    CASE
        WHEN not_finite THEN 'nan_or_inf'
        WHEN complete
            THEN concat_ws(
                ', ',
                CASE WHEN repetition_loop THEN 'repetition_loop' END,
                CASE WHEN mid_layer THEN 'mid_layer_anomaly' END,
                CASE WHEN attention_collapse THEN 'attention_collapse' END,
                CASE WHEN high_entropy_steps > 0 THEN 'high_entropy_steps' END
            )
    END AS risk_v04_factors,
    CASE
        WHEN not_finite THEN 1
        WHEN complete
            THEN least(
                1,
                coalesce(list_max([part.value FOR part IN flag_parts]), 0)
                + coalesce(list_sum([part.value FOR part IN series_parts]), 0)
                + coalesce(list_sum([signal.severity FOR signal IN compound]), 0)
            )
    END::DOUBLE AS risk_v05,
    CASE
        WHEN not_finite THEN 'nan_or_inf'
        WHEN complete
            THEN array_to_string(
                list_concat(
                    [part.name FOR part IN flag_parts],
                    [part.name FOR part IN series_parts],
                    ['compound:' || signal.name FOR signal IN compound]
                ),
                ', '
            )
    END AS risk_v05_factors,
    CASE
        WHEN repetition_loop THEN 0.9
        WHEN complete THEN CASE WHEN is_rising AND list_max(entropies) > 4 THEN 0.6 ELSE 0.3 END
    END::DOUBLE AS early_warning_v04,
    CASE
        WHEN complete
            THEN concat_ws(
                ', ',
                CASE WHEN repetition_loop THEN 'repetition_loop' END,
                CASE WHEN NOT repetition_loop AND is_rising AND list_max(entropies) > 4 THEN 'entropy_rising' END,
                CASE WHEN NOT repetition_loop AND list_max(entropies) > 4 THEN 'high_entropy' END,
                CASE WHEN mid_layer THEN 'mid_layer_anomaly' END,
                CASE WHEN attention_collapse THEN 'attention_collapse' END
            )
    END AS early_warning_v04_signals,
    CASE WHEN complete THEN coalesce(list_max([signal.value FOR signal IN warnings]), 0) END::DOUBLE AS early_warning_v05,
    CASE WHEN complete THEN array_to_string([signal.name FOR signal IN warnings], ', ') END AS early_warning_v05_signals
FROM fired
