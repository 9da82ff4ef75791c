-- Where the time of a run went: total time by operation, over its writers and segments.
-- An operation inside another is counted in both; the colour says which one it is part of. `lake show --timings` prints
-- the same with the time that no operation explains.
-- title: Time by operation
-- mark: bar
-- x: total_s:Q  total time (s)
-- y: operation:N
-- color: part_of:N  part of
-- tooltip: calls, mean_ms, max_ms
-- scale: x zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
SELECT
    name AS operation,
    coalesce(parent, 'the run') AS part_of,
    sum(count) AS calls,
    sum(total_ms) / 1000 AS total_s,
    sum(total_ms) / nullif(sum(count), 0) AS mean_ms,
    max(max_ms) AS max_ms
FROM operations
WHERE run_id = $run AND name <> 'wall'
GROUP BY ALL
ORDER BY total_s DESC, operation
