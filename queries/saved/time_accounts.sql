-- Where the time of a run went, with what no operation accounts for: the parts of an operation and its rest add up to it.
-- `rest of the run` is what passed (`wall`) without any operation: the program itself, and waiting between them.
-- title: Where the time went
-- mark: bar
-- x: total_s:Q  total time (s)
-- y: operation:N
-- color: part_of:N  part of
-- tooltip: calls, mean_ms, max_ms
-- scale: x zero
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
WITH taken AS (
    SELECT name, parent, sum(count) AS calls, sum(total_ms) AS total_ms, max(max_ms) AS max_ms
    FROM operations
    WHERE run_id = $run AND name <> 'wall'
    GROUP BY name, parent
),
-- An operation may run inside several others; its own total is their sum.
whole AS (
    SELECT name, sum(total_ms) AS total_ms
    FROM taken
    GROUP BY name
),
rests AS (
    SELECT p.name AS parent, 'rest of ' || p.name AS name, any_value(p.total_ms) - sum(c.total_ms) AS total_ms
    FROM whole AS p
    JOIN taken AS c ON c.parent = p.name
    GROUP BY p.name
    UNION ALL
    SELECT
        NULL AS parent,
        'rest of the run' AS name,
        sum(total_ms) - (SELECT coalesce(sum(total_ms), 0) FROM taken WHERE parent IS NULL) AS total_ms
    FROM operations
    WHERE run_id = $run AND name = 'wall'
    HAVING count(*) > 0
)
SELECT
    name AS operation,
    coalesce(parent, 'the run') AS part_of,
    calls::BIGINT AS calls,
    total_ms / 1000 AS total_s,
    total_ms / nullif(calls, 0) AS mean_ms,
    max_ms
FROM (SELECT * FROM taken UNION ALL BY NAME SELECT *, NULL AS calls, NULL AS max_ms FROM rests WHERE total_ms > 0)
ORDER BY total_s DESC, operation
