-- Two runs side by side: the share of sequences with each health flag, of those that could be judged.
-- title: Health flags in two runs
-- mark: bar
-- x: flag:N  flag
-- y: share:Q  share of the sequences judged
-- color: of_run:N  run
-- band: share_low, share_high  95 % interval
-- tooltip: sequences, judged
-- scale: y 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param other RUN = NULL  The run to compare with; the newest run before it if not given.
-- param profile PROFILE = default  Thresholds: a row of `health_profiles`, such as default, gpt2, llama, v0.3 or v0.5.
WITH chosen AS (
    SELECT coalesce($other, arg_max(o.run_id, o.created_at)) AS other_run_id
    FROM runs AS r
    LEFT JOIN runs AS o ON o.run_id <> r.run_id AND o.created_at <= r.created_at AND o.status <> 'removed'
    WHERE r.run_id = $run
),
judged AS (
    SELECT run_id AS of_run, flag, is_on
    FROM sequence_flags
    WHERE run_id IN ($run, (SELECT other_run_id FROM chosen)) AND profile = $profile
),
shares AS (
    SELECT of_run, flag, count(*) FILTER (WHERE is_on) AS sequences, count(is_on) AS judged, avg(is_on::INTEGER) AS share
    FROM judged
    GROUP BY of_run, flag
    HAVING count(is_on) > 0
)
SELECT
    of_run,
    flag,
    share,
    sequences,
    judged,
    -- 95 % Wilson interval.
    greatest(0, (share + 1.9208 / judged - 1.96 * sqrt(share * (1 - share) / judged + 0.9604 / judged ** 2)) / (1 + 3.8416 / judged)) AS share_low,
    least(1, (share + 1.9208 / judged + 1.96 * sqrt(share * (1 - share) / judged + 0.9604 / judged ** 2)) / (1 + 3.8416 / judged)) AS share_high
FROM shares
ORDER BY of_run <> $run, of_run, share DESC, flag
