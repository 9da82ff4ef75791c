-- How many sequences of a run have each health flag? Sequences that could not be judged are left out of the share.
-- title: Share of sequences with each health flag
-- mark: bar
-- x: share:Q  share of the sequences judged
-- y: flag:N
-- tooltip: sequences, judged, unknown
-- scale: x 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
SELECT
    flag,
    avg(is_on::INTEGER) AS share,
    count(*) FILTER (WHERE is_on) AS sequences,
    count(is_on) AS judged,
    count(*) FILTER (WHERE is_on IS NULL) AS unknown
FROM sequence_flags
WHERE run_id = $run AND profile = $profile
GROUP BY flag
ORDER BY share DESC NULLS LAST, flag
