-- What sparsity costs: L0 against unexplained variance of every autoencoder that was evaluated on a run.
-- Needs `lake sae eval`; cross-entropy is in nats per token.
-- title: Sparsity and error of autoencoders
-- mark: point
-- x: l0:Q  active features per token
-- y: fvu:Q  fraction of variance unexplained
-- color: arch:N
-- detail: sae_id:N
-- tooltip: layer, d_sae, frac_dead, cossim, ce_increase_nats, ce_loss_score, kl_div_with_sae
-- param run RUN = latest:sae_evaluations  The run they were evaluated on, or that trained them: id, unique prefix, tag or latest.
SELECT
    m.sae_id, coalesce(s.arch, 'unknown') AS arch, s.layer, s.site, m.d_sae, m.split, m.l0, m.fvu, m.frac_dead,
    m.cossim, m.ce_increase_nats, m.ce_loss_score, m.kl_div_with_sae
FROM sae_metrics AS m
LEFT JOIN (SELECT DISTINCT ON (sae_id) sae_id, arch, layer, site FROM saes ORDER BY sae_id, run_id) AS s USING (sae_id)
WHERE (m.run_id = $run OR m.sae_id IN (SELECT sae_id FROM saes WHERE run_id = $run))
ORDER BY s.layer, m.l0, m.sae_id
