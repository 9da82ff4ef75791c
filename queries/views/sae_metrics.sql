-- Metrics of every evaluated autoencoder, from the sums in sae_evaluations; named as in SAEBench's core.
-- column l0: Active features per row, on average.
-- column l1: Sum of the activations of a row, on average.
-- column fvu: Share of the variance that the reconstruction leaves: S|x - x'|^2 / (S|x|^2 - |Sx|^2 / n).
-- column explained_variance: 1 - fvu.
-- column mse: Squared error of a row, summed over dimensions, on average.
-- column cossim: Cosine of a row and its reconstruction, on average.
-- column l2_ratio: Length of the reconstruction over that of the row, on average.
-- column relative_reconstruction_bias: S|x'|^2 / S x.x'; below 1 the reconstruction shrinks.
-- column frac_dead: Share of features that were never active.
-- column frac_dense: Share of features active in more than 10 % of the rows.
-- column ce_loss_without_sae: Cross-entropy of the model, in nats per token.
-- column ce_loss_with_sae: The same with the reconstruction in place of the site.
-- column ce_loss_with_zero_ablation: The same with zeros in its place.
-- column ce_loss_with_mean_ablation: The same with the mean in its place.
-- column ce_increase_nats: What the reconstruction costs, in nats per token.
-- column ce_loss_score: (zero - reconstruction) / (zero - clean), of the cross-entropies.
-- column ce_loss_score_mean: The same against the mean.
-- column kl_div_with_sae: KL divergence from the model's predictions, in nats per token, with the reconstruction.
-- column kl_div_with_ablation: The same with zeros.
-- column kl_div_with_mean_ablation: The same with the mean.
-- column kl_div_score: 1 - kl_div_with_sae / kl_div_with_ablation.
SELECT
    run_id,
    analysis_id,
    sae_id,
    split,
    n,
    d_sae,
    sum_l0 / n AS l0,
    sum_l1 / n AS l1,
    -- FVU = S|x - x'|^2 / (S|x|^2 - |Sx|^2 / n); explained variance is 1 - FVU.
    sum_error_sq / nullif(sum_x_sq - sq_of_sum_x / n, 0) AS fvu,
    1 - sum_error_sq / nullif(sum_x_sq - sq_of_sum_x / n, 0) AS explained_variance,
    -- Mean over rows of |x - x'|^2 (summed over dimensions).
    sum_error_sq / n AS mse,
    sum_cosine / nullif(n_ratio, 0) AS cossim,
    -- Mean of |x'| / |x|.
    sum_norm_ratio / nullif(n_ratio, 0) AS l2_ratio,
    -- S|x'|^2 / S x.x': below 1 the reconstruction shrinks.
    sum_reconstruction_sq / nullif(sum_inner, 0) AS relative_reconstruction_bias,
    n_dead / d_sae AS frac_dead,
    n_dense / d_sae AS frac_dense,
    n_dead,
    n_dense,
    n_ce,
    sum_ce_clean / nullif(n_ce, 0) AS ce_loss_without_sae,
    sum_ce_reconstruction / nullif(n_ce, 0) AS ce_loss_with_sae,
    sum_ce_zero / nullif(n_ce, 0) AS ce_loss_with_zero_ablation,
    sum_ce_mean / nullif(n_ce, 0) AS ce_loss_with_mean_ablation,
    -- Nats per token that the reconstruction costs: the number that says something on small models too.
    (sum_ce_reconstruction - sum_ce_clean) / nullif(n_ce, 0) AS ce_increase_nats,
    -- (zero - reconstruction) / (zero - clean), and the same against the mean.
    (sum_ce_zero - sum_ce_reconstruction) / nullif(sum_ce_zero - sum_ce_clean, 0) AS ce_loss_score,
    (sum_ce_mean - sum_ce_reconstruction) / nullif(sum_ce_mean - sum_ce_clean, 0) AS ce_loss_score_mean,
    sum_kl_reconstruction / nullif(n_ce, 0) AS kl_div_with_sae,
    sum_kl_zero / nullif(n_ce, 0) AS kl_div_with_ablation,
    sum_kl_mean / nullif(n_ce, 0) AS kl_div_with_mean_ablation,
    1 - sum_kl_reconstruction / nullif(sum_kl_zero, 0) AS kl_div_score,
    reason
FROM sae_evaluations
