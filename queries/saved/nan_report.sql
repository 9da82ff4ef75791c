-- States that are not finite: how many elements are NaN or infinite, by layer and site, and where it began.
-- No rows is good news.
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
SELECT
    layer,
    site,
    stack,
    sum(n_nan) AS nan_elements,
    sum(n_inf) AS infinite_elements,
    count(*) AS tokens,
    count(DISTINCT sequence_id) AS sequences,
    min(sequence_id) AS first_sequence_id,
    arg_min(position, (sequence_id, position)) AS first_position
FROM layer_summaries
WHERE run_id = $run AND (n_nan > 0 OR n_inf > 0)
GROUP BY layer, site, stack
ORDER BY layer, site, stack
