-- The states at `position` paired with the token that they predict, which stands at position + 1: one row per token,
-- layer and site. Rows of `layer_summaries` belong to the token that was read; use this view, not a plain join with
-- `token_steps`, to ask what the network was like before it produced a token.
-- column position: Position of the token that was read when the state was computed.
-- column next_position: Position of the predicted token: position + 1.
-- column next_step: Step of the predicted token; 0 for the states of the last prompt token; null while in the prompt.
-- column next_is_prompt: Whether the predicted token is given (prompt) rather than generated.
-- column next_surprisal_bits: Surprisal of the predicted token, in bits.
-- column next_entropy_bits: Entropy of the distribution that the states at `position` lead to, in bits.
SELECT
    l.run_id,
    l.sequence_id,
    l.position,
    l.layer,
    l.site,
    l.l2_norm,
    l.mean,
    l.std,
    l.max_abs,
    l.n_nan,
    l.n_inf,
    l.cos_prev_layer,
    l.cos_prev_position,
    l.delta_norm,
    l.attn_entropy_bits_mean,
    l.attn_entropy_bits_min,
    l.attn_entropy_bits_max,
    l.attn_max_weight_mean,
    l.attn_max_weight_min,
    l.attn_max_weight_max,
    n.* EXCLUDE (run_id, sequence_id, position)
FROM layer_summaries AS l
JOIN next_tokens AS n USING (run_id, sequence_id, position)
WHERE l.stack = 'decoder'
