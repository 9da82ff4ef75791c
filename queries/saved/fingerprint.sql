-- Each sequence as a few numbers, for clustering: fingerprint v1 (9 numbers) and v2 (25 numbers), one column each.
-- `v1_01` and `v2_01` stand for the place in the vector. Flags are 0 or 1. Where the source writes 0 for a number that
-- cannot be computed, this is null. Formulas: docs/health.md.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
WITH numbers AS (
    SELECT
        r.*,
        len(r.entropies) // 4 AS quarter,
        r.high_entropy_steps / greatest(1, r.n_prompt_tokens + r.n_steps) AS high_entropy_of_all
    FROM risk_scores AS r
    WHERE r.run_id = $run AND r.profile = $profile
)
SELECT
    sequence_id,
    list_avg(entropies) AS v1_00_entropy_mean,
    list_max(entropies) AS v1_01_entropy_max,
    high_entropy_of_all AS v1_02_high_entropy_fraction,
    risk_v04 AS v1_03_risk,
    has_nan::INTEGER AS v1_04_nan,
    has_inf::INTEGER AS v1_05_inf,
    attention_collapse::INTEGER AS v1_06_collapse,
    repetition_loop::INTEGER AS v1_07_repetition,
    mid_layer_anomaly::INTEGER AS v1_08_mid_layer,
    list_avg(entropies) AS v2_00_entropy_mean,
    list_stddev_samp(entropies) AS v2_01_entropy_sd,
    list_min(entropies) AS v2_02_entropy_min,
    list_max(entropies) AS v2_03_entropy_max,
    entropy_slope AS v2_04_entropy_slope,
    list_avg(margins) AS v2_05_margin_mean,
    list_stddev_samp(margins) AS v2_06_margin_sd,
    margin_slope AS v2_07_margin_slope,
    list_avg(surprisals) AS v2_08_surprisal_mean,
    list_stddev_samp(surprisals) AS v2_09_surprisal_sd,
    surprisal_slope AS v2_10_surprisal_slope,
    list_avg(masses) AS v2_11_mass_mean,
    list_stddev_samp(masses) AS v2_12_mass_sd,
    risk_v05 AS v2_13_risk,
    high_entropy_of_all AS v2_14_high_entropy_fraction,
    has_nan::INTEGER AS v2_15_nan,
    has_inf::INTEGER AS v2_16_inf,
    attention_collapse::INTEGER AS v2_17_collapse,
    repetition_loop::INTEGER AS v2_18_repetition,
    mid_layer_anomaly::INTEGER AS v2_19_mid_layer,
    entropy_margin_correlation AS v2_20_entropy_margin_correlation,
    list_stddev_samp(entropies) / nullif(list_avg(entropies), 0) AS v2_21_entropy_variation,
    CASE WHEN quarter > 0 THEN list_avg(entropies[1:quarter]) END AS v2_22_entropy_first_quarter,
    CASE WHEN quarter > 0 THEN list_avg(entropies[-quarter:]) END AS v2_23_entropy_last_quarter,
    0 AS v2_24_reserved,
    reason
FROM numbers
ORDER BY sequence_id
