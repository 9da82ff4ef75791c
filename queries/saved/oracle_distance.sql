-- How far answers are from an oracle solution, layer by layer, free and after being forced to begin with it.
-- Relative to the length of the oracle's state. The interval is of the mean over answers. Made by `lake analyze oracle`.
-- title: Distance to the oracle by layer
-- mark: line
-- x: layer:Q
-- y: relative_distance:Q  distance over the oracle's length
-- color: answers:N
-- facet: scope:N
-- band: low, high  95 % interval of the mean
-- tooltip: answers_counted, distance, cosine
-- scale: y zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'oracle'
)
SELECT
    o.layer,
    o.scope,
    CASE WHEN o.condition = 'free' THEN 'free' ELSE 'forced ' || round(10 * o.share)::INTEGER * 10 || ' %' END AS answers,
    count(*) AS answers_counted,
    avg(o.distance) AS distance,
    avg(o.cosine) AS cosine,
    avg(o.relative_distance) AS relative_distance,
    avg(o.relative_distance) - 1.96 * stddev_samp(o.relative_distance) / sqrt(count(*)) AS low,
    avg(o.relative_distance) + 1.96 * stddev_samp(o.relative_distance) / sqrt(count(*)) AS high
FROM oracle_distances AS o
JOIN chosen USING (analysis_id)
WHERE o.run_id = $run AND o.relative_distance IS NOT NULL
GROUP BY ALL
ORDER BY o.scope, answers, o.layer
