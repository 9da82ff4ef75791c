-- Generated tokens that the model chose (none that were given or forced), with what is known of their sequence: one row
-- per token of a completion.
-- column outcome: `correct`, `wrong`, or `ungraded` where the sequence has no reference answer.
SELECT
    t.run_id,
    t.sequence_id,
    t.position,
    t.step,
    t.token_id,
    t.token,
    t.char_end,
    t.is_forced,
    t.logprob,
    t.surprisal_bits,
    t.entropy_bits,
    t.rank,
    t.top1_prob,
    t.margin,
    t.top10_mass,
    t.sampling_logprob,
    t.sampling_entropy_bits,
    t.latency_ms,
    s.prompt_id,
    s.item_id,
    s.sample,
    s.origin,
    s.temperature,
    s.correct,
    CASE WHEN s.correct THEN 'correct' WHEN NOT s.correct THEN 'wrong' ELSE 'ungraded' END AS outcome,
    s.solution_method,
    s.finish_reason,
    s.n_prompt_tokens,
    s.n_generated_tokens,
    s.batch_size
FROM token_steps AS t
JOIN sequences AS s USING (run_id, sequence_id)
WHERE t.step IS NOT NULL AND t.is_forced IS NOT TRUE
