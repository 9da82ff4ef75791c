-- Generated tokens step by step, with the flags of each step and the numbers they come from.
-- The states of a step are those of the token before it, which predict it (`state_position`).
-- title: Entropy and flags of each generated token
-- mark: point
-- x: step:Q
-- y: entropy_bits:Q  entropy (bits)
-- color: flags:N
-- tooltip: token, cos_prev_state, mid_layer_norm, mid_layer_threshold, collapsed_rate
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
-- param sequence BIGINT = 0  The sequence.
SELECT
    * EXCLUDE (profile, run_id, series_from),
    coalesce(
        nullif(
            concat_ws(
                ', ',
                CASE WHEN is_high_entropy THEN 'high entropy' END,
                CASE WHEN is_repeated THEN 'repeated state' END,
                CASE WHEN is_mid_layer_anomaly THEN 'mid-layer anomaly' END
            ),
            ''
        ),
        'none'
    ) AS flags
FROM health_steps
WHERE run_id = $run AND profile = $profile AND sequence_id = $sequence
ORDER BY step
