-- One sequence token by token and layer by layer: how early each next token is decided. The colour is the surprisal of
-- the actual next token in what the state behind that block would predict. Needs `lake analyze lens RUN`.
-- title: What each layer would predict
-- mark: rect
-- x: position:Q  position of the token read
-- y: layer:Q
-- color: surprisal_bits:Q  surprisal of the next token (bits)
-- scale: color 0..10
-- labels: x token
-- tooltip: token, next_token, lens_token, rank, entropy_bits, kl_bits
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
WITH words AS (
    SELECT token_id, any_value(token) AS word FROM token_steps WHERE run_id = $run GROUP BY token_id
)
SELECT
    l.position,
    l.layer,
    t.token,
    n.token AS next_token,
    coalesce(w.word, l.topk_ids[1]::VARCHAR) AS lens_token,
    l.rank,
    least(-l.logprob / ln(2), 10) AS surprisal_bits,
    l.entropy_bits,
    l.kl_bits
FROM logit_lens AS l
JOIN token_steps AS t USING (run_id, sequence_id, position)
JOIN token_steps AS n ON n.run_id = l.run_id AND n.sequence_id = l.sequence_id AND n.position = l.position + 1
LEFT JOIN words AS w ON w.token_id = l.topk_ids[1]
WHERE l.run_id = $run AND l.sequence_id = $sequence
    AND l.analysis_id = (
        SELECT max_by(analysis_id, created_at) FROM analyses
        WHERE run_id = $run AND name = 'lens' AND analysis_id IN (
            SELECT analysis_id FROM logit_lens WHERE run_id = $run AND sequence_id = $sequence
        )
    )
ORDER BY l.layer, l.position
