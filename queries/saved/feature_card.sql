-- One feature of an autoencoder: where it is most active, some of every tenth of its activations, and where it is not.
-- Needs `lake sae features`; the token is marked [[so]] in its text.
-- param run RUN = latest:feature_examples  The run that was encoded: id, unique prefix, tag or latest.
-- param feature BIGINT = 0  Index of the feature.
-- param sae TEXT = NULL  The sae_id; all if not given.
-- param kind TEXT = NULL  top, quantile or silent; all if not given.
SELECT
    e.sae_id,
    e.feature,
    s.label,
    s.n_active,
    e.kind,
    CASE WHEN e.quantile >= 0 THEN e.quantile END AS tenth,
    e.place,
    e.activation,
    e.sequence_id,
    e.position,
    left(e.text, e.peak_start) || '[[' || substring(e.text, e.peak_start + 1, e.peak_end - e.peak_start) || ']]'
        || substring(e.text, e.peak_end + 1) AS text
FROM feature_examples AS e
JOIN feature_stats AS s USING (run_id, analysis_id, sae_id, feature)
WHERE e.run_id = $run AND e.feature = $feature AND ($sae IS NULL OR e.sae_id = $sae) AND ($kind IS NULL OR e.kind = $kind)
ORDER BY e.sae_id, e.kind = 'silent', e.kind = 'quantile', e.quantile DESC, e.place
