-- Is each sequence healthy? One row per sequence: flags, risk scores, early warnings and compound signals.
-- Riskiest first. Under another profile the same run is judged again; `health_profiles` lists them. What could not be
-- judged is null, and `reason` says why. Formulas and units: docs/health.md.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
SELECT
    sequence_id,
    n_prompt_tokens,
    n_steps,
    finish_reason,
    is_broken,
    has_nan,
    has_inf,
    attention_collapse,
    attention_collapse_any,
    attention_collapse_trend,
    attention_collapse_severity,
    collapsed_rate,
    focused_rate,
    high_entropy_steps,
    high_entropy_fraction,
    repetition_loop,
    repetition_first_position,
    repetition_longest,
    mid_layer_anomaly,
    mid_layer_first_position,
    mid_layer_steps,
    risk_v04,
    risk_v04_factors,
    risk_v05,
    risk_v05_factors,
    early_warning_v04,
    early_warning_v04_signals,
    early_warning_v05,
    early_warning_v05_signals,
    compound_signals,
    profile,
    reason
FROM risk_scores
WHERE run_id = $run AND profile = $profile
ORDER BY risk_v05 DESC NULLS LAST, sequence_id
