-- Where a sparse-autoencoder feature is most active: the top tokens with the text that leads up to them.
-- Needs `lake sae features`, whose table in the order of features is read: a small part of all activations.
-- param run RUN = latest:feature_activations  The run: id, unique prefix, tag or latest.
-- param feature BIGINT = 0  Index of the feature.
-- param sae TEXT = NULL  The sae_id; all if not given.
-- param limit BIGINT = 20  How many tokens to show.
WITH top AS (
    SELECT run_id, sequence_id, position, sae_id, feature, activation
    FROM feature_activations
    WHERE run_id = $run AND feature = $feature AND ($sae IS NULL OR sae_id = $sae)
    ORDER BY activation DESC, sequence_id, position
    LIMIT $limit
)
SELECT
    f.sae_id,
    a.layer,
    a.site,
    f.feature,
    f.activation,
    f.sequence_id,
    f.position,
    t.token,
    t.surprisal_bits,
    right(
        left(CASE WHEN t.step IS NULL THEN coalesce(s.rendered_prompt, s.prompt) ELSE s.completion END, t.char_end), 80
    ) AS text_before
FROM top AS f
JOIN token_steps AS t USING (run_id, sequence_id, position)
JOIN sequences AS s USING (run_id, sequence_id)
LEFT JOIN (SELECT DISTINCT ON (sae_id) sae_id, layer, site FROM saes ORDER BY sae_id, run_id) AS a USING (sae_id)
ORDER BY f.activation DESC, f.sequence_id, f.position
