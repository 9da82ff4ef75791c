-- How widely each head spreads its attention: mean entropy by layer and head, over tokens with at least two keys.
-- title: Attention entropy by head
-- mark: rect
-- x: head:Q
-- y: layer:Q
-- color: mean_entropy_bits:Q
-- tooltip: mean_share_of_maximum, mean_max_weight, tokens
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param kind TEXT = self  Attention of the tokens to each other (self) or to the encoder (cross).
SELECT
    layer,
    head,
    count(*) AS tokens,
    avg(entropy_bits) AS mean_entropy_bits,
    avg(entropy_bits / log2(n_keys)) AS mean_share_of_maximum,
    avg(max_weight) AS mean_max_weight
FROM head_summaries
WHERE run_id = $run AND kind = $kind AND stack = 'decoder' AND n_keys >= 2 AND isfinite(entropy_bits)
GROUP BY layer, head
ORDER BY layer, head
