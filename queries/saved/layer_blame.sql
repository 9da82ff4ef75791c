-- Which layers are to blame? One row per sequence and layer, most severe first.
-- Severity: 1 for NaN or Inf, 0.5 for a norm far above the other layers', 0.4 for heads collapsed in most steps, 0.3 for
-- a norm that varies much over steps, otherwise 0. `is_blamed_v04` is the older rule. Formulas: docs/health.md.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
-- param sequence BIGINT = NULL  Only this sequence; all if not given.
-- param least DOUBLE = 0  Leave out layers of smaller severity.
SELECT * EXCLUDE (profile, run_id)
FROM layer_verdicts
WHERE
    run_id = $run
    AND profile = $profile
    AND sequence_id BETWEEN coalesce($sequence, 0) AND coalesce($sequence, 9223372036854775807)
    AND coalesce(severity, 0) >= $least
ORDER BY severity DESC NULLS LAST, sequence_id, layer
