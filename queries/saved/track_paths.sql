-- The tracks of one token (or of one sequence, if its features were pooled): which features follow which through the
-- layers, with their labels. A track begins where its features are new; births and deaths are columns. Made by
-- `lake analyze tracks`; labels by `lake sae features`.
-- title: Tracks of a token
-- mark: line
-- x: layer:Q  layer
-- y: activation:Q  activation over the feature's mean
-- color: track:N
-- tooltip: feature, label, cost, birth_layer, death_layer, fate, token, next_token
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = NULL  The sequence_id within the run; the first one with tracks if not given.
-- param position BIGINT = NULL  The token; the first one with tracks if not given.
-- param least DOUBLE = 0  Only tracks whose largest activation is above this.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(t.analysis_id, a.created_at)) AS analysis_id
    FROM analyses AS a
    JOIN (SELECT DISTINCT analysis_id FROM tracks WHERE run_id = $run) AS t USING (analysis_id)
    WHERE a.run_id = $run
),
unit AS (
    SELECT sequence_id, position
    FROM tracks
    JOIN chosen USING (analysis_id)
    WHERE run_id = $run AND sequence_id = coalesce($sequence, sequence_id)
        AND ($position IS NULL OR position = $position)
    ORDER BY sequence_id, position
    LIMIT 1
),
labels AS (
    SELECT f.layer, s.feature, any_value(s.label) AS label
    FROM feature_stats AS s
    JOIN saes AS f USING (sae_id)
    WHERE s.run_id = $run
    GROUP BY f.layer, s.feature
)
SELECT
    p.sequence_id,
    p.position,
    'track ' || p.track AS track,
    p.layer,
    p.feature,
    coalesce(l.label, 'no rule') AS label,
    p.activation,
    p.cost,
    t.birth_layer,
    t.death_layer,
    CASE
        WHEN p.cost IS NULL THEN 'born'
        WHEN p.layer = t.death_layer THEN 'dies'
        ELSE 'goes on'
    END AS fate,
    now.token,
    after.token AS next_token
FROM track_points AS p
JOIN chosen USING (analysis_id)
JOIN unit AS u ON u.sequence_id = p.sequence_id AND u.position IS NOT DISTINCT FROM p.position
JOIN tracks AS t
    ON t.run_id = p.run_id AND t.analysis_id = p.analysis_id AND t.sequence_id = p.sequence_id AND t.track = p.track
    AND t.position IS NOT DISTINCT FROM p.position
LEFT JOIN labels AS l ON l.layer = p.layer AND l.feature = p.feature
LEFT JOIN token_steps AS now ON now.run_id = p.run_id AND now.sequence_id = p.sequence_id AND now.position = p.position
LEFT JOIN token_steps AS after
    ON after.run_id = p.run_id AND after.sequence_id = p.sequence_id AND after.position = p.position + 1
WHERE p.run_id = $run AND t.max > $least
ORDER BY p.track, p.layer
