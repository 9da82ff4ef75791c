-- One row per generated token and profile: how many of the heads that led to it are collapsed or focused.
-- Filter by `profile` and `run_id`. Only self-attention of the decoder counts.
-- column profile: The thresholds used; see `health_profiles`.
-- column position: Position of the generated token; the heads are those of the position before it.
-- column series_from: `stored` if the sequence has a row of `generation_series`, from which `health_verdicts` judges it; otherwise `rows`.
-- column is_counted: Whether that row has these counts by the cuts of the profile.
-- column n_judged: Attention heads with enough keys to be judged, over all layers.
-- column n_below_bits: Of these, heads below the profile's entropy in bits.
-- column n_below_normalised: Of these, heads below the profile's normalised entropy.
-- column n_heavy: Of these, heads with a weight above the profile's.
WITH spans AS (
    SELECT
        p.*,
        s.run_id,
        s.sequence_id,
        s.n_prompt_tokens - 1 AS first_state,
        s.n_prompt_tokens + s.n_generated_tokens - 2 AS last_state,
        CASE WHEN g.sequence_id IS NULL THEN 'rows' ELSE 'stored' END AS series_from,
        coalesce(g.is_counted, false) AS is_counted
    FROM sequences AS s
    CROSS JOIN health_profiles AS p
    LEFT JOIN health_series AS g USING (profile, run_id, sequence_id)
)
SELECT
    s.profile,
    h.run_id,
    h.sequence_id,
    h.position + 1 AS position,
    s.series_from,
    s.is_counted,
    count(*) FILTER (WHERE h.n_keys >= s.min_keys) AS n_judged,
    count(*) FILTER (WHERE h.n_keys >= s.min_keys AND h.entropy_bits < s.collapsed_bits) AS n_below_bits,
    count(*) FILTER (WHERE h.n_keys >= s.min_keys AND h.entropy_bits < s.collapsed_normalised * log2(greatest(h.n_keys, 2)))
        AS n_below_normalised,
    count(*) FILTER (WHERE h.n_keys >= s.min_keys AND isfinite(h.max_weight) AND h.max_weight > s.focused_weight) AS n_heavy
FROM head_summaries AS h
JOIN spans AS s USING (run_id, sequence_id)
-- Without the number of keys a head cannot be judged; imported ones have none.
WHERE h.stack = 'decoder' AND h.kind = 'self' AND h.position BETWEEN s.first_state AND s.last_state AND h.n_keys IS NOT NULL
GROUP BY s.profile, h.run_id, h.sequence_id, h.position, s.series_from, s.is_counted
