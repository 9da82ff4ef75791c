-- How hard each head looks at a single token: mean of its largest attention weight, over tokens with at least two keys.
-- 1 is a head that always looks at one token; `attention_sinks` shows how often that token is the first.
-- title: Largest attention weight by head
-- mark: rect
-- x: head:Q
-- y: layer:Q
-- color: mean_max_weight:Q  mean largest weight
-- tooltip: mean_entropy_bits, share_on_first_token, tokens
-- scale: color 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param kind TEXT = self  Attention of the tokens to each other (self) or to the encoder (cross).
SELECT
    layer,
    head,
    count(*) AS tokens,
    avg(max_weight) AS mean_max_weight,
    avg(entropy_bits) AS mean_entropy_bits,
    avg((max_key = 0)::INTEGER) AS share_on_first_token
FROM head_summaries
WHERE run_id = $run AND kind = $kind AND stack = 'decoder' AND n_keys >= 2 AND isfinite(max_weight)
GROUP BY layer, head
ORDER BY layer, head
