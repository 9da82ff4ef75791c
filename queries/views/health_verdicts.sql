-- One row per sequence and profile: the health flags, and the series of the generated steps that scores are made of.
-- Filter by `profile` and `run_id`. A flag is null where the run did not keep what it needs; `reason` says what. In runs of
-- kind `import`, what cannot be judged from the report's numbers is the report's own verdict, and `reason` says so.
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
WITH others AS (
    SELECT s.run_id, s.sequence_id
    FROM sequences AS s
    LEFT JOIN generation_series AS g USING (run_id, sequence_id)
    WHERE g.sequence_id IS NULL
),
damage AS (
    SELECT run_id, sequence_id, bool_or(has_nan) AS has_nan, bool_or(has_inf) AS has_inf
    FROM (
        SELECT l.run_id, l.sequence_id, sum(l.n_nan) > 0 AS has_nan, sum(l.n_inf) > 0 AS has_inf
        FROM layer_summaries AS l
        JOIN others USING (run_id, sequence_id)
        GROUP BY l.run_id, l.sequence_id
        UNION ALL
        SELECT
            run_id,
            sequence_id,
            bool_or(value > 0) FILTER (WHERE name IN ('has_nan', 'reported.nan')) AS has_nan,
            bool_or(value > 0) FILTER (WHERE name IN ('has_inf', 'reported.inf')) AS has_inf
        FROM imported_metrics
        GROUP BY run_id, sequence_id
    )
    GROUP BY run_id, sequence_id
),
-- Verdicts of imported reports, each under the rules of the program that wrote it.
reported AS (
    SELECT
        run_id,
        sequence_id,
        bool_or(value > 0) FILTER (WHERE name = 'reported.repetition_loop') AS repetition_loop,
        bool_or(value > 0) FILTER (WHERE name = 'reported.mid_layer_anomaly') AS mid_layer_anomaly,
        bool_or(value > 0) FILTER (WHERE name = 'reported.attention_collapse_any') AS collapse_any,
        bool_or(value > 0) FILTER (WHERE name = 'reported.attention_collapse_trend') AS collapse_trend,
        max(value) FILTER (WHERE name = 'reported.attention_collapse_severity') AS collapse_severity
    FROM imported_metrics
    WHERE step IS NULL
    GROUP BY run_id, sequence_id
),
basins AS (
    SELECT h.run_id, h.sequence_id, avg(h.basin_ratio) AS mean_basin_ratio
    FROM head_summaries AS h
    JOIN others USING (run_id, sequence_id)
    WHERE h.basin_ratio IS NOT NULL AND h.kind = 'self'
    GROUP BY h.run_id, h.sequence_id
),
-- What is not stored is gathered: one sorted list of steps per sequence, from which the series are taken: a sort for each series costs twice as much.
gathered AS (
    SELECT
        profile,
        run_id,
        sequence_id,
        count(*) AS n_steps,
        list(
            {
                'step': step,
                'entropy': entropy_bits,
                'margin': margin,
                'surprisal': surprisal_bits,
                'mass': top10_mass,
                'is_repeated': is_repeated
            } ORDER BY step
        ) AS steps,
        regr_slope(entropy_bits, step) FILTER (WHERE isfinite(entropy_bits)) AS entropy_slope,
        regr_slope(margin, step) FILTER (WHERE isfinite(margin)) AS margin_slope,
        regr_slope(surprisal_bits, step) FILTER (WHERE isfinite(surprisal_bits)) AS surprisal_slope,
        corr(entropy_bits, margin) FILTER (WHERE isfinite(entropy_bits) AND isfinite(margin)) AS entropy_margin_correlation,
        count(*) FILTER (WHERE is_high_entropy) AS high_entropy_steps,
        count(is_mid_layer_anomaly) AS n_mid_layer_steps,
        count(*) FILTER (WHERE is_mid_layer_anomaly) AS mid_layer_steps,
        min(position) FILTER (WHERE is_mid_layer_anomaly) AS mid_layer_first_position,
        bool_or(has_states) AS has_states,
        bool_or(has_collapsed_bits) AS collapse_any,
        count(n_collapsed_normalised) > 0 AS has_rates,
        bool_or(distribution = 'sampling') AS is_sampling,
        avg(collapsed_rate) AS collapsed_rate,
        avg(n_focused / nullif(n_heads, 0)) AS focused_rate,
        list(n_collapsed_normalised / n_heads ORDER BY step) FILTER (WHERE n_heads > 0 AND n_collapsed_normalised IS NOT NULL) AS rates
    FROM health_steps
    WHERE series_from = 'rows'
    GROUP BY profile, run_id, sequence_id
),
-- Heads of stored sequences under a profile that has cuts of its own.
recounted AS (
    SELECT
        profile,
        run_id,
        sequence_id,
        bool_or(n_below_bits > 0) AS collapse_any,
        list(n_below_normalised / n_judged ORDER BY position) FILTER (WHERE n_judged > 0) AS rates,
        avg(CASE p.collapse_rule WHEN 'any_bits' THEN n_below_bits ELSE n_below_normalised END / nullif(n_judged, 0)) AS collapsed_rate,
        avg(n_heavy / nullif(n_judged, 0)) AS focused_rate
    FROM health_step_heads
    JOIN generation_series AS g USING (run_id, sequence_id)
    JOIN health_profiles AS p USING (profile)
    WHERE series_from = 'stored' AND NOT is_counted AND list_contains(g.positions, position)
    GROUP BY profile, run_id, sequence_id
),
series AS (
    SELECT
        * EXCLUDE (steps),
        nullif([one.entropy::DOUBLE FOR one IN steps IF isfinite(one.entropy)], []) AS entropies,
        nullif([one.margin::DOUBLE FOR one IN steps IF isfinite(one.margin)], []) AS margins,
        nullif([one.surprisal::DOUBLE FOR one IN steps IF isfinite(one.surprisal)], []) AS surprisals,
        nullif([one.mass::DOUBLE FOR one IN steps IF isfinite(one.mass)], []) AS masses,
        -- One letter per step, so that a row of repeated pairs is a row of ones.
        array_to_string([CASE WHEN one.is_repeated THEN '1' ELSE '0' END FOR one IN steps], '') AS repeats
    FROM gathered
    UNION ALL BY NAME
    SELECT
        g.* EXCLUDE (is_counted) REPLACE (
            CASE WHEN g.is_counted THEN g.collapse_any ELSE r.collapse_any END AS collapse_any,
            CASE WHEN g.is_counted THEN g.has_rates ELSE r.run_id IS NOT NULL END AS has_rates,
            CASE WHEN g.is_counted THEN g.rates ELSE r.rates END AS rates,
            CASE WHEN g.is_counted THEN g.collapsed_rate ELSE r.collapsed_rate END AS collapsed_rate,
            CASE WHEN g.is_counted THEN g.focused_rate ELSE r.focused_rate END AS focused_rate
        )
    FROM health_series AS g
    LEFT JOIN recounted AS r USING (profile, run_id, sequence_id)
),
judged AS (
    SELECT
        p.profile,
        s.run_id,
        s.sequence_id,
        s.n_prompt_tokens,
        s.finish_reason = 'broken' AS is_broken,
        coalesce(g.has_nan, d.has_nan) AS has_nan,
        coalesce(g.has_inf, d.has_inf) AS has_inf,
        r.n_layers,
        g.* EXCLUDE (profile, run_id, sequence_id, has_nan, has_inf, mean_basin_ratio),
        CASE WHEN g.has_states THEN p.repetition_pairs END AS pairs,
        -- Of the last n steps, n - 1 have a pair within them.
        CASE WHEN p.repetition_last_steps < g.n_steps THEN g.n_steps - p.repetition_last_steps + 1 ELSE 0 END AS skipped,
        instr(g.repeats[skipped + 1:], repeat('1', pairs)) AS loop_at,
        list_max(list_transform(regexp_extract_all(g.repeats[skipped + 1:], '1+'), lambda row: len(row))) AS repetition_longest,
        r.kind = 'import' AS is_import,
        list_max(g.rates) - list_avg(g.rates[1:greatest(1, least(5, len(g.rates) // 3))]) AS rate_rise,
        CASE
            WHEN list_avg(g.rates) > p.collapse_mean_rate THEN 0.8
            WHEN len(g.rates) < p.collapse_trend_steps THEN NULL
            WHEN rate_rise > p.collapse_steep_rise THEN 0.4
            WHEN rate_rise > p.collapse_rise THEN 0.2
        END::DOUBLE AS severity,
        coalesce(g.collapse_any, e.collapse_any) AS any_collapse,
        CASE WHEN g.has_rates THEN severity IS NOT NULL ELSE e.collapse_trend END AS trend_collapse,
        CASE WHEN g.has_rates THEN severity ELSE e.collapse_severity END AS trend_severity,
        CASE p.collapse_rule WHEN 'any_bits' THEN any_collapse ELSE trend_collapse END AS collapse,
        CASE p.collapse_rule WHEN 'any_bits' THEN g.collapse_any IS NULL ELSE NOT g.has_rates END AND collapse IS NOT NULL AS collapse_is_reported,
        CASE WHEN g.has_states THEN loop_at > 0 ELSE e.repetition_loop END AS repeats_itself,
        CASE WHEN g.n_mid_layer_steps > 0 THEN g.mid_layer_steps > 0 ELSE e.mid_layer_anomaly END AS mid_layer,
        coalesce(g.mean_basin_ratio, b.mean_basin_ratio) AS mean_basin_ratio,
        p.collapse_rule
    FROM sequences AS s
    CROSS JOIN health_profiles AS p
    LEFT JOIN runs AS r USING (run_id)
    LEFT JOIN series AS g USING (profile, run_id, sequence_id)
    LEFT JOIN damage AS d USING (run_id, sequence_id)
    LEFT JOIN basins AS b USING (run_id, sequence_id)
    LEFT JOIN reported AS e USING (run_id, sequence_id)
)
SELECT
    profile,
    run_id,
    sequence_id,
    coalesce(n_steps, 0) AS n_steps,
    is_broken,
    has_nan,
    has_inf,
    CASE WHEN entropies IS NOT NULL THEN high_entropy_steps END AS high_entropy_steps,
    CASE WHEN entropies IS NOT NULL THEN high_entropy_steps / len(entropies) END AS high_entropy_fraction,
    collapse AS attention_collapse,
    any_collapse AS attention_collapse_any,
    trend_collapse AS attention_collapse_trend,
    trend_severity AS attention_collapse_severity,
    collapsed_rate,
    focused_rate,
    repeats_itself AS repetition_loop,
    CASE WHEN loop_at > 0 THEN (n_prompt_tokens + skipped + loop_at - 2)::INTEGER END AS repetition_first_position,
    CASE WHEN has_states THEN coalesce(repetition_longest, 0) END AS repetition_longest,
    mid_layer AS mid_layer_anomaly,
    mid_layer_first_position,
    CASE WHEN n_mid_layer_steps > 0 THEN mid_layer_steps END AS mid_layer_steps,
    mean_basin_ratio,
    n_layers,
    entropies,
    margins,
    surprisals,
    masses,
    CASE WHEN len(entropies) >= 2 THEN entropy_slope END AS entropy_slope,
    CASE WHEN len(margins) >= 2 THEN margin_slope END AS margin_slope,
    CASE WHEN len(surprisals) >= 2 THEN surprisal_slope END AS surprisal_slope,
    CASE WHEN isfinite(entropy_margin_correlation) THEN entropy_margin_correlation END AS entropy_margin_correlation,
    nullif(
        concat_ws(
            '; ',
            CASE WHEN n_steps IS NULL THEN 'nothing was generated' END,
            CASE WHEN n_steps > 0 AND entropies IS NULL THEN 'no finite distribution of a generated token was kept (tokens)' END,
            CASE
                WHEN n_steps > 0 AND repeats_itself IS NULL
                    THEN CASE WHEN is_import THEN 'the source has no verdict on repetition' ELSE 'no states of generated tokens were kept (layers)' END
            END,
            CASE WHEN n_steps > 0 AND any_collapse IS NULL AND trend_collapse IS NULL THEN 'no attention of generated tokens was kept (heads)' END,
            CASE WHEN n_steps > 0 AND collapse IS NULL AND coalesce(any_collapse, trend_collapse) IS NOT NULL THEN 'the report counts collapsed heads by another rule: judge by the profile '
                || CASE WHEN any_collapse IS NOT NULL THEN 'v0.3' ELSE 'v0.5' END END,
            CASE WHEN is_import AND NOT has_states AND repeats_itself IS NOT NULL THEN 'repetition is the report''s own verdict' END,
            CASE WHEN collapse_is_reported THEN 'attention collapse is the report''s own verdict' END,
            CASE WHEN is_import AND collapse AND trend_collapse IS NULL THEN 'the severity of the collapse is not known: risk_v05 counts 0.15' END,
            CASE WHEN NOT coalesce(n_mid_layer_steps > 0, false) AND mid_layer IS NOT NULL THEN 'mid-layer anomaly is the report''s own verdict' END,
            CASE WHEN is_sampling THEN 'entropy, surprisal, margin and mass are of the distribution sampled from' END,
            CASE WHEN n_layers < 3 THEN 'a model of fewer than 3 layers has no middle layers' END,
            CASE WHEN n_layers IS NULL THEN 'the number of layers is not known' END
        ),
        ''
    ) AS reason
FROM judged
