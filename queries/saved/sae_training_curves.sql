-- How trainings of autoencoders go: unexplained variance by tokens seen, of every autoencoder of a run of kind sae.
-- title: Training of autoencoders
-- mark: line
-- x: n_tokens:Q  tokens trained on
-- y: fvu:Q  fraction of variance unexplained
-- color: sae_id:N
-- tooltip: step, loss, mse, term, aux, l0, dead, lr, validation_fvu, tokens_per_s, wait_share
-- scale: y log
-- param run RUN = latest:sae_training  The training: id, unique prefix, tag or latest.
SELECT sae_id, step, n_tokens, loss, mse, term, aux, fvu, l0, dead, lr, validation_fvu, tokens_per_s, wait_share
FROM sae_training
WHERE run_id = $run AND fvu > 0
ORDER BY sae_id, step
