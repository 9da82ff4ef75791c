-- Thresholds of the health verdicts: one row per profile, chosen with `--param profile=NAME`. The views `health_steps`,
-- `health_verdicts`, `risk_scores` and `layer_verdicts` judge every sequence under every profile, so a run is judged
-- again by asking for another one. `v0.3` and `v0.5` are the rule sets of the monitor these flags come from; the
-- formulas are in docs/health.md.
-- column profile: Name of the profile: a family of models, or a rule set.
-- column high_entropy_bits: A step is of high entropy above this, in bits.
-- column repetition_cosine: Two consecutive final-normed states are a repeated pair above this cosine.
-- column repetition_pairs: Repeated pairs in a row that make a loop.
-- column repetition_last_steps: Only the last so many steps are looked at; null means the whole sequence.
-- column mid_layer_multiplier: A middle layer is anomalous above this many times the baseline.
-- column mid_layer_baseline: How the early layers' norms of the step make the baseline: `median` or `mean`.
-- column mid_layer_fallback_norm: Threshold where a step has no finite early norm, in model units.
-- column collapse_rule: `any_bits`: one head below `collapsed_bits` at one step is a collapse; `rate_normalised`: the share of heads below `collapsed_normalised` rises or is high.
-- column collapsed_bits: A head is collapsed below this entropy, in bits (0.1 nats).
-- column collapsed_normalised: A head is collapsed below this entropy over log2 of its number of keys.
-- column focused_weight: A head is focused if its largest weight is above this.
-- column min_keys: Heads with fewer keys are left out: with one key the entropy is 0 for everyone.
-- column collapse_trend_steps: Steps needed before a rising share of collapsed heads counts.
-- column collapse_rise: Largest share minus that of the first steps, above which the rise counts (severity 0.2).
-- column collapse_steep_rise: The same for severity 0.4.
-- column collapse_mean_rate: Mean share of collapsed heads that is catastrophic above this (severity 0.8).
-- column low_basin: Mean basin ratio of the prompt below which the middle is neglected.
SELECT
    profile,
    high_entropy_bits::DOUBLE AS high_entropy_bits,
    repetition_cosine::DOUBLE AS repetition_cosine,
    3 AS repetition_pairs,
    repetition_last_steps::INTEGER AS repetition_last_steps,
    mid_layer_multiplier::DOUBLE AS mid_layer_multiplier,
    mid_layer_baseline,
    1000::DOUBLE AS mid_layer_fallback_norm,
    collapse_rule,
    0.1::DOUBLE / ln(2) AS collapsed_bits,
    0.03::DOUBLE AS collapsed_normalised,
    focused_weight::DOUBLE AS focused_weight,
    2 AS min_keys,
    4 AS collapse_trend_steps,
    0.15::DOUBLE AS collapse_rise,
    0.25::DOUBLE AS collapse_steep_rise,
    0.7::DOUBLE AS collapse_mean_rate,
    0.3::DOUBLE AS low_basin
FROM (
    VALUES
    ('default', 4.0, 0.9995, NULL, 8, 'median', 'rate_normalised', 0.90),
    ('gpt2', 5.0, 0.9995, NULL, 5, 'median', 'rate_normalised', 0.90),
    ('llama', 3.5, 0.9998, NULL, 10, 'median', 'rate_normalised', 0.85),
    ('mistral', 4.0, 0.9997, NULL, 8, 'median', 'rate_normalised', 0.85),
    ('mixtral', 4.5, 0.9997, NULL, 8, 'median', 'rate_normalised', 0.85),
    ('qwen2', 4.5, 0.9997, NULL, 8, 'median', 'rate_normalised', 0.88),
    ('phi3', 3.8, 0.9996, NULL, 7, 'median', 'rate_normalised', 0.88),
    ('v0.3', 4.0, 0.9995, 5, 5, 'mean', 'any_bits', 0.90),
    ('v0.5', 4.0, 0.9995, 5, 8, 'median', 'rate_normalised', 0.90)
) AS named (
    profile,
    high_entropy_bits,
    repetition_cosine,
    repetition_last_steps,
    mid_layer_multiplier,
    mid_layer_baseline,
    collapse_rule,
    focused_weight
)
