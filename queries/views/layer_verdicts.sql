-- One row per sequence, layer and profile: what each layer has to answer for over the generated steps.
-- Filter by `profile` and `run_id`. Norms are those of `resid_post` at the positions that led to generated tokens; NaN
-- and Inf are counted over the whole sequence. A value is null where the run did not keep what it needs.
-- column profile: The thresholds used; see `health_profiles`.
-- column n_nan: NaN elements in any state of the layer, prompt included.
-- column n_inf: Infinite elements in any state of the layer, prompt included.
-- column mean_norm: Mean norm over the steps, in model units; steps without a finite norm are left out.
-- column norm_z: Sample standard deviations of that mean above the mean over the layers.
-- column norm_variation: Sample standard deviation of the norm over steps, over its mean; null with fewer than 3 steps.
-- column collapsed_steps: Share of steps with a head of this layer that is collapsed under the profile's rule.
-- column is_blamed_v04: The older rule: NaN, Inf or a collapsed head at any step.
-- column severity: The newer rule: 1 not finite, 0.5 large norm, 0.4 collapsed in most steps, 0.3 unsteady norm; the largest, 0 if none, null if one is unknown.
-- column reasons: Names of the newer rule's findings: nan_or_inf, collapsed_heads, large_norm, unsteady_norm.
-- column reason: What could not be judged, and why; null if all could.
WITH spans AS (
    SELECT
        s.run_id,
        s.sequence_id,
        s.n_prompt_tokens - 1 AS first_state,
        s.n_prompt_tokens + s.n_generated_tokens - 2 AS last_state,
        r.n_layers
    FROM sequences AS s
    JOIN runs AS r USING (run_id)
),
places AS (
    SELECT p.profile, s.run_id, s.sequence_id, unnest(range(s.n_layers))::INTEGER AS layer
    FROM spans AS s
    CROSS JOIN health_profiles AS p
),
norms AS (
    SELECT
        run_id,
        sequence_id,
        layer,
        sum(n_nan) AS n_nan,
        sum(n_inf) AS n_inf,
        avg(norm) AS mean_norm,
        stddev_samp(norm) AS norm_sd,
        count(norm) AS n_norms
    FROM (
        SELECT
            l.run_id,
            l.sequence_id,
            l.layer,
            l.n_nan,
            l.n_inf,
            CASE
                WHEN l.site = 'resid_post' AND isfinite(l.l2_norm) AND l.position BETWEEN s.first_state AND s.last_state
                    THEN l.l2_norm::DOUBLE
            END AS norm
        FROM layer_summaries AS l
        JOIN spans AS s USING (run_id, sequence_id)
        WHERE l.stack = 'decoder'
    )
    GROUP BY run_id, sequence_id, layer
),
step_heads AS (
    SELECT
        p.profile,
        h.run_id,
        h.sequence_id,
        h.layer,
        bool_or(
            h.n_keys >= p.min_keys
            AND h.entropy_bits < CASE p.collapse_rule WHEN 'any_bits' THEN p.collapsed_bits ELSE p.collapsed_normalised * log2(greatest(h.n_keys, 2)) END
        ) AS is_collapsed
    FROM head_summaries AS h
    JOIN spans AS s USING (run_id, sequence_id)
    CROSS JOIN health_profiles AS p
    WHERE h.stack = 'decoder' AND h.kind = 'self' AND h.position BETWEEN s.first_state AND s.last_state AND h.n_keys IS NOT NULL
    GROUP BY p.profile, h.run_id, h.sequence_id, h.layer, h.position
),
heads AS (
    SELECT profile, run_id, sequence_id, layer, avg(coalesce(is_collapsed, false)::INTEGER) AS collapsed_steps
    FROM step_heads
    GROUP BY profile, run_id, sequence_id, layer
),
-- Imported reports say whether a layer is finite at a step and how many of its heads are collapsed, by one rule.
reported AS (
    SELECT
        p.profile,
        m.run_id,
        m.sequence_id,
        m.layer,
        bool_or(m.value > 0) FILTER (WHERE m.name IN ('has_nan', 'has_inf')) AS is_broken,
        avg((m.value > 0)::INTEGER)
            FILTER (WHERE m.name = CASE p.collapse_rule WHEN 'any_bits' THEN 'collapsed_heads_bits' ELSE 'collapsed_heads_normalised' END)
            AS collapsed_steps
    FROM imported_metrics AS m
    CROSS JOIN health_profiles AS p
    WHERE m.step IS NOT NULL AND m.layer IS NOT NULL
    GROUP BY p.profile, m.run_id, m.sequence_id, m.layer
),
facts AS (
    SELECT
        p.*,
        n.* EXCLUDE (run_id, sequence_id, layer),
        coalesce(h.collapsed_steps, e.collapsed_steps) AS collapsed_steps,
        (n.mean_norm - avg(n.mean_norm) OVER layers) / nullif(stddev_samp(n.mean_norm) OVER layers, 0) AS norm_z,
        CASE WHEN n.n_norms >= 3 THEN n.norm_sd / nullif(n.mean_norm, 0) END AS norm_variation,
        coalesce(n.n_nan + n.n_inf > 0, false) OR coalesce(e.is_broken, false) AS not_finite
    FROM places AS p
    LEFT JOIN norms AS n USING (run_id, sequence_id, layer)
    LEFT JOIN heads AS h USING (profile, run_id, sequence_id, layer)
    LEFT JOIN reported AS e USING (profile, run_id, sequence_id, layer)
    WINDOW layers AS (PARTITION BY p.profile, p.run_id, p.sequence_id)
),
judged AS (
    SELECT
        *,
        not_finite OR (mean_norm IS NOT NULL AND collapsed_steps IS NOT NULL) AS is_known,
        list_filter(
            [
                {'name': 'nan_or_inf', 'severity': 1.0::DOUBLE, 'on': not_finite},
                {'name': 'large_norm', 'severity': 0.5, 'on': norm_z > 2.5},
                {'name': 'collapsed_heads', 'severity': 0.4, 'on': collapsed_steps > 0.5},
                {'name': 'unsteady_norm', 'severity': 0.3, 'on': norm_variation > 0.5}
            ],
            lambda finding: coalesce(finding.on, false)
        ) AS findings
    FROM facts
)
SELECT
    profile,
    run_id,
    sequence_id,
    layer,
    n_nan,
    n_inf,
    mean_norm,
    norm_z,
    norm_variation,
    collapsed_steps,
    CASE WHEN not_finite OR collapsed_steps IS NOT NULL THEN not_finite OR collapsed_steps > 0 END AS is_blamed_v04,
    CASE WHEN is_known THEN coalesce(list_max([finding.severity FOR finding IN findings]), 0) END::DOUBLE AS severity,
    array_to_string([finding.name FOR finding IN findings], ', ') AS reasons,
    nullif(
        concat_ws(
            '; ',
            CASE WHEN mean_norm IS NULL THEN 'no finite norm of a generated step' END,
            CASE WHEN n_norms BETWEEN 1 AND 2 THEN 'fewer than 3 steps to vary over' END,
            CASE WHEN collapsed_steps IS NULL THEN 'no attention of generated tokens was kept (heads)' END
        ),
        ''
    ) AS reason
FROM judged
