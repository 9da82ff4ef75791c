-- Given continuations (`lake collect --given`) and how probable the model finds them: one row per sequence with given
-- tokens whose distributions were kept. Only given tokens count, none that were chosen behind them.
-- column given: Text of the given tokens.
-- column n_tokens: Given tokens that a distribution predicted.
-- column sum_logprob: Sum of their log-probabilities (raw distribution), in nats.
-- column mean_logprob: Mean of their log-probabilities, in nats per token.
-- column rank_by_sum: Place among the continuations of the same item by sum_logprob; 1 is the most probable.
-- column rank_by_mean: The same by mean_logprob, which does not prefer short ones.
WITH scored AS (
    SELECT
        run_id,
        sequence_id,
        max(char_end) AS given_end,
        count(logprob) AS n_tokens,
        sum(logprob::DOUBLE) AS sum_logprob,
        avg(logprob::DOUBLE) AS mean_logprob
    FROM token_steps
    WHERE is_forced AND logprob IS NOT NULL
    GROUP BY run_id, sequence_id
)
SELECT
    s.run_id,
    s.sequence_id,
    s.prompt_id,
    s.item_id,
    s.sample,
    s.origin,
    s.answer,
    left(s.completion, c.given_end) AS given,
    c.n_tokens,
    c.sum_logprob,
    c.mean_logprob,
    rank() OVER (PARTITION BY s.run_id, s.item_id, s.sample ORDER BY c.sum_logprob DESC) AS rank_by_sum,
    rank() OVER (PARTITION BY s.run_id, s.item_id, s.sample ORDER BY c.mean_logprob DESC) AS rank_by_mean
FROM scored AS c
JOIN sequences AS s USING (run_id, sequence_id)
WHERE s.parent_run_id IS NULL
