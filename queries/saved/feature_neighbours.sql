-- The features of the next layer and of the layer before that lie nearest to one feature, by the cosine of their decoder
-- rows, with labels where the run has them. Made by `lake analyze links` or `lake analyze tracks`.
-- title: Links around a feature
-- mark: bar
-- x: cosine:Q  cosine of decoder rows
-- y: partner:N
-- color: side:N
-- tooltip: label, place, sae_id
-- scale: x zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param feature BIGINT = 0  Index of the feature.
-- param layer BIGINT = NULL  Its layer; the first one that has links if not given.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'links'
),
links AS (
    SELECT l.*, here.layer AS layer, there.layer AS next_layer
    FROM feature_links AS l
    JOIN chosen USING (analysis_id)
    JOIN (SELECT DISTINCT sae_id, layer FROM saes) AS here ON here.sae_id = l.sae_id
    JOIN (SELECT DISTINCT sae_id, layer FROM saes) AS there ON there.sae_id = l.next_sae_id
    WHERE l.run_id = $run
),
wanted AS (
    SELECT coalesce($layer, min(layer)) AS layer FROM links
),
around AS (
    SELECT 'next layer' AS side, next_layer AS layer, next_sae_id AS sae_id, next_feature AS feature, cosine, place
    FROM links
    WHERE layer = (SELECT layer FROM wanted) AND feature = $feature
    UNION ALL
    SELECT 'layer before', layer, sae_id, feature, cosine, place
    FROM links
    WHERE next_layer = (SELECT layer FROM wanted) AND next_feature = $feature
),
labels AS (
    SELECT sae_id, feature, any_value(label) AS label FROM feature_stats WHERE run_id = $run GROUP BY sae_id, feature
)
SELECT
    a.side,
    'layer ' || a.layer || ', ' || a.feature AS partner,
    a.cosine,
    a.place,
    coalesce(l.label, 'no rule') AS label,
    a.sae_id
FROM around AS a
LEFT JOIN labels AS l USING (sae_id, feature)
ORDER BY a.side DESC, a.cosine DESC, partner
