-- Share of features that were never active on a run, by layer of their autoencoder.
-- Needs `lake sae eval` on the run.
-- title: Dead features by layer
-- mark: bar
-- x: layer:O
-- y: frac_dead:Q  share of features never active
-- color: arch:N
-- tooltip: sae_id, n_dead, d_sae, n
-- param run RUN = latest:sae_evaluations  The run they were evaluated on, or that trained them: id, unique prefix, tag or latest.
SELECT s.layer, coalesce(s.arch, 'unknown') AS arch, m.sae_id, m.frac_dead, m.n_dead, m.d_sae, m.n
FROM sae_metrics AS m
JOIN (SELECT DISTINCT ON (sae_id) sae_id, arch, layer FROM saes ORDER BY sae_id, run_id) AS s USING (sae_id)
WHERE (m.run_id = $run OR m.sae_id IN (SELECT sae_id FROM saes WHERE run_id = $run))
ORDER BY s.layer, m.sae_id
