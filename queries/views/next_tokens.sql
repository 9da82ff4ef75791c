-- What the states at `position` predict: the token at position + 1 and its distribution, moved to the row of the
-- state that predicted it, so that any table with the key can be joined USING (run_id, sequence_id, position).
-- Encoder tokens predict nothing and the decoder's start token is predicted by nothing: they make no pair. Nor does
-- the last token of a sequence; the distribution after it is in `sequences.next_entropy_bits`.
-- column position: Position of the state that predicts; the predicted token stands at position + 1.
-- column next_position: Position of the predicted token.
-- column next_step: Step of the predicted token; 0 for the states of the last prompt token; null while in the prompt.
-- column next_is_prompt: Whether the predicted token is given (prompt) rather than generated.
-- column next_surprisal_bits: Surprisal of the predicted token, in bits.
-- column next_entropy_bits: Entropy of the distribution that the states at `position` lead to, in bits.
SELECT
    run_id,
    sequence_id,
    position - 1 AS position,
    position AS next_position,
    step AS next_step,
    is_prompt AS next_is_prompt,
    is_forced AS next_is_forced,
    token_id AS next_token_id,
    token AS next_token,
    logprob AS next_logprob,
    surprisal_bits AS next_surprisal_bits,
    entropy_bits AS next_entropy_bits,
    rank AS next_rank,
    top1_prob AS next_top1_prob,
    margin AS next_margin,
    top10_mass AS next_top10_mass,
    sampling_logprob AS next_sampling_logprob,
    sampling_entropy_bits AS next_sampling_entropy_bits
FROM token_steps
WHERE
    position > 0
    AND stack = 'decoder'
    -- In an encoder-decoder model the only decoder token of the prompt is the start token, which nothing predicts.
    AND (step IS NOT NULL OR run_id NOT IN (SELECT run_id FROM runs WHERE is_encoder_decoder))
