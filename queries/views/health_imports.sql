-- What imported reports measured of each step, for the health views: one row per step of a run of kind `import`.
-- Where a report has no observation (margin of the processed distribution, heads counted but not listed, the prompt's
-- average at step 0), these numbers are used instead. Which fields they come from: docs/exchange.md.
-- column margin: Margin of the distribution that the report measured.
-- column top10_mass: Mass of its ten best tokens.
-- column early_median: Median norm of the first third of the layers, where the report has averages over the prompt.
-- column early_mean: Mean of the same.
-- column mid_layer_norm: Largest norm of the middle third of the layers, where the report has averages over the prompt.
-- column mid_layer_broken: True if a middle layer has NaN or infinity; null where none is reported.
-- column n_heads: Heads that were counted, over all layers.
-- column n_collapsed_bits: Of these, heads below 0.1 nats (0.1443 bits); null if the report counted otherwise.
-- column n_collapsed_normalised: Of these, heads below 0.03 of their largest possible entropy; null if the report counted otherwise.
-- column n_focused: Of these, heads with a weight above 0.9.
-- column least_entropy_bits: Smallest entropy of any head, in bits.
SELECT
    m.run_id,
    m.sequence_id,
    m.step,
    max(m.value) FILTER (WHERE m.name = 'margin') AS margin,
    max(m.value) FILTER (WHERE m.name = 'top10_mass') AS top10_mass,
    median(m.value) FILTER (WHERE m.name = 'resid_post.l2_norm' AND m.layer < r.n_layers // 3) AS early_median,
    avg(m.value) FILTER (WHERE m.name = 'resid_post.l2_norm' AND m.layer < r.n_layers // 3) AS early_mean,
    max(m.value) FILTER (WHERE m.name = 'resid_post.l2_norm' AND m.layer >= r.n_layers // 3 AND m.layer < 2 * r.n_layers // 3) AS mid_layer_norm,
    bool_or(m.value > 0)
        FILTER (WHERE m.name IN ('has_nan', 'has_inf') AND m.layer >= r.n_layers // 3 AND m.layer < 2 * r.n_layers // 3) AS mid_layer_broken,
    nullif(count(m.value) FILTER (WHERE m.name IN ('collapsed_heads_bits', 'collapsed_heads_normalised')) * any_value(r.n_heads), 0) AS n_heads,
    sum(m.value) FILTER (WHERE m.name = 'collapsed_heads_bits') AS n_collapsed_bits,
    sum(m.value) FILTER (WHERE m.name = 'collapsed_heads_normalised') AS n_collapsed_normalised,
    sum(m.value) FILTER (WHERE m.name = 'focused_heads') AS n_focused,
    min(m.value) FILTER (WHERE m.name = 'attn_entropy_bits_min' AND m.layer IS NULL) AS least_entropy_bits
FROM imported_metrics AS m
JOIN runs AS r USING (run_id)
WHERE m.step IS NOT NULL AND r.kind = 'import'
GROUP BY m.run_id, m.sequence_id, m.step
