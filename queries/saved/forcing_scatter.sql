-- Whether beginning with an oracle's tokens brings the rest of the answer nearer to it: below the diagonal it does.
-- A point is a forced answer; both distances are over the steps behind the forced ones. Made by `lake analyze oracle`.
-- title: Distance to the oracle, free and forced
-- mark: point
-- x: free_distance:Q  distance of the free answer
-- y: forced_distance:Q  distance of the forced answer
-- color: share:N  forced share
-- tooltip: prompt_id, sequence_id, improvement, n_prefix, n_tokens, n_oracle_tokens
-- scale: x zero, y zero, y equal
-- reference: diagonal
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param layer BIGINT = NULL  The layer; the last one if not given.
-- param analysis TEXT = NULL  The analysis_id (see `analyses`); the newest of its kind if not given.
WITH chosen AS (
    SELECT coalesce($analysis, max_by(analysis_id, created_at)) AS analysis_id
    FROM analyses
    WHERE run_id = $run AND name = 'oracle'
)
SELECT
    o.prompt_id,
    o.sequence_id,
    round(10 * o.share)::INTEGER * 10 || ' %' AS share,
    o.distance + o.improvement AS free_distance,
    o.distance AS forced_distance,
    o.improvement,
    o.n_prefix,
    o.n_tokens,
    o.n_oracle_tokens
FROM oracle_distances AS o
JOIN chosen USING (analysis_id)
WHERE
    o.run_id = $run
    AND o.scope = 'rest'
    AND o.condition = 'forced'
    AND o.improvement IS NOT NULL
    AND o.layer = coalesce($layer, (SELECT max(layer) FROM oracle_distances JOIN chosen USING (analysis_id)))
ORDER BY share, o.prompt_id, o.sequence_id
