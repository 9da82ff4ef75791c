-- How tracks diverge by layer, in right and in wrong answers: entropy of their activations, tracks above 0.5, largest
-- share. Means over answers of means over their tokens, with normal 95 % intervals over prompts' means. Made by
-- `lake analyze tracks`.
-- title: Divergence of tracks by layer
-- mark: line
-- x: layer:O  layer
-- y: value:Q  mean over answers
-- color: outcome:N
-- band: low, high  95 % interval
-- tooltip: measure, n_prompts
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param measure TEXT = entropy  entropy (bits), competition (tracks above 0.5) or dominance (largest share).
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(t.analysis_id, a.created_at)) AS analysis_id
    FROM analyses AS a
    JOIN (SELECT DISTINCT analysis_id FROM tracks WHERE run_id = $run) AS t USING (analysis_id)
    WHERE a.run_id = $run
),
units AS (
    SELECT
        p.sequence_id,
        p.position,
        p.layer,
        sum(p.activation::DOUBLE) AS total,
        sum(CASE WHEN p.activation > 0 THEN p.activation::DOUBLE * log2(p.activation::DOUBLE) ELSE 0 END) AS weighted,
        max(p.activation::DOUBLE) AS largest,
        count(*) FILTER (WHERE p.activation > 0.5) AS competing
    FROM track_points AS p
    JOIN chosen USING (analysis_id)
    WHERE p.run_id = $run
    GROUP BY p.sequence_id, p.position, p.layer
),
answers_ AS (
    SELECT
        s.prompt_id,
        u.layer,
        CASE WHEN s.correct THEN 'right' ELSE 'wrong' END AS outcome,
        avg(CASE WHEN total > 0 THEN greatest(log2(total) - weighted / total, 0) ELSE 0 END) AS entropy,
        avg(competing) AS competition,
        avg(CASE WHEN total > 0 THEN largest / total ELSE 0 END) AS dominance
    FROM units AS u
    JOIN sequences AS s ON s.run_id = $run AND s.sequence_id = u.sequence_id
    WHERE s.correct IS NOT NULL
    GROUP BY s.prompt_id, s.sequence_id, u.layer, outcome
),
long AS (
    UNPIVOT answers_ ON entropy, competition, dominance INTO NAME measure VALUE value
),
prompts AS (
    SELECT prompt_id, layer, outcome, measure, avg(value) AS value FROM long GROUP BY ALL
)
SELECT
    layer,
    outcome,
    measure,
    avg(value) AS value,
    avg(value) - 1.96 * stddev_samp(value) / sqrt(count(*)) AS low,
    avg(value) + 1.96 * stddev_samp(value) / sqrt(count(*)) AS high,
    count(*) AS n_prompts
FROM prompts
WHERE measure = $measure
GROUP BY layer, outcome, measure
ORDER BY measure, outcome, layer
