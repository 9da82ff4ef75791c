-- Given continuations (`lake collect --given`) and how probable the model finds them: one row per sequence with given
-- tokens whose distributions were kept. Only given tokens count, none that were chosen behind them.
-- column given: Text of the given tokens.
-- column n_tokens: Given tokens that a distribution predicted.
-- column sum_logprob: Sum of their log-probabilities (raw distribution), in nats.
-- column mean_logprob: Mean of their log-probabilities, in nats per token.
-- column rank_by_sum: Place among the continuations of the same item by sum_logprob; 1 is the most probable.
-- column rank_by_mean: The same by mean_logprob, which does not prefer short ones.
SELECT
    *,
    rank() OVER (PARTITION BY run_id, item_id, sample ORDER BY sum_logprob DESC) AS rank_by_sum,
    rank() OVER (PARTITION BY run_id, item_id, sample ORDER BY mean_logprob DESC) AS rank_by_mean
FROM (
    SELECT
        s.run_id,
        s.sequence_id,
        s.prompt_id,
        s.item_id,
        s.sample,
        s.origin,
        s.answer,
        left(s.completion, max(t.char_end)) AS given,
        count(t.logprob) AS n_tokens,
        sum(t.logprob::DOUBLE) AS sum_logprob,
        avg(t.logprob::DOUBLE) AS mean_logprob
    FROM token_steps AS t
    JOIN sequences AS s USING (run_id, sequence_id)
    WHERE t.is_forced AND s.parent_run_id IS NULL
    GROUP BY ALL
    HAVING count(t.logprob) > 0
)
