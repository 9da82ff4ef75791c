-- Heads that rest on the first token: share of tokens whose largest attention weight is on the first decoder token.
-- Tokens with fewer than $min_keys keys are left out, as they have little else to look at.
-- title: Attention sinks: share of tokens that look most at the first token
-- mark: rect
-- x: head:Q
-- y: layer:Q
-- color: share_on_first_token:Q  share of tokens
-- tooltip: mean_max_weight, tokens
-- scale: color 0..1
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param min_keys BIGINT = 8  Least number of keys that a token must have.
WITH first_tokens AS (
    SELECT
        s.sequence_id,
        CASE WHEN r.is_encoder_decoder THEN s.n_prompt_tokens - 1 ELSE 0 END AS first_key
    FROM sequences AS s
    JOIN runs AS r USING (run_id)
    WHERE s.run_id = $run
)
SELECT
    h.layer,
    h.head,
    count(*) AS tokens,
    avg((h.max_key = f.first_key)::INTEGER) AS share_on_first_token,
    avg(h.max_weight) AS mean_max_weight
FROM head_summaries AS h
JOIN first_tokens AS f USING (sequence_id)
WHERE h.run_id = $run AND h.kind = 'self' AND h.stack = 'decoder' AND h.n_keys >= $min_keys
GROUP BY h.layer, h.head
ORDER BY h.layer, h.head
