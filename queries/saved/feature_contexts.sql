-- Where a sparse-autoencoder feature is most active: the top tokens with the text that leads up to them.
-- Needs SAE features in the lake (`lake sae features`).
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param feature BIGINT = 0  Index of the feature.
-- param sae TEXT = NULL  The sae_id; all if not given.
-- param limit BIGINT = 20  How many tokens to show.
WITH top AS (
    SELECT run_id, sequence_id, position, sae_id, layer, site, feature, activation
    FROM sae_features
    WHERE run_id = $run AND feature = $feature AND ($sae IS NULL OR sae_id = $sae)
    ORDER BY activation DESC, sequence_id, position
    LIMIT $limit
)
SELECT
    f.sae_id,
    f.layer,
    f.site,
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
ORDER BY f.activation DESC, f.sequence_id, f.position
