-- One row per sequence, profile and health flag: the one list of what counts as a flag, in text and in charts.
-- Filter by `profile` and `run_id`.
-- column profile: The thresholds used; see `health_profiles`.
-- column flag: broken, NaN, Inf, repetition loop, mid-layer anomaly, attention collapse, high entropy or compound signal.
-- column is_on: Whether the sequence has the flag; null where the run did not keep what it needs.
SELECT
    run_id,
    sequence_id,
    profile,
    unnest(
        [
            {'flag': 'broken', 'is_on': is_broken},
            {'flag': 'NaN', 'is_on': has_nan},
            {'flag': 'Inf', 'is_on': has_inf},
            {'flag': 'repetition loop', 'is_on': repetition_loop},
            {'flag': 'mid-layer anomaly', 'is_on': mid_layer_anomaly},
            {'flag': 'attention collapse', 'is_on': attention_collapse},
            {'flag': 'high entropy', 'is_on': high_entropy_steps > 0},
            {'flag': 'compound signal', 'is_on': compound_signals <> ''}
        ],
        recursive := true
    )
FROM risk_scores
