-- The stored vectors along every sequence that goes on from a stored one: its own from `branch_position` on, and those of
-- its parent before it (which must still be in the lake, and hold them).
-- column sequence_id: The branch.
-- column source_run_id: Run that holds the vector: the branch's own, or its parent's before `branch_position`.
-- column source_sequence_id: Sequence of that run.
SELECT
    s.run_id,
    s.sequence_id,
    a.position,
    a.layer,
    a.site,
    a.stack,
    a.dtype,
    a.dim,
    a.scale,
    a.vector,
    s.branch_position,
    a.run_id AS source_run_id,
    a.sequence_id AS source_sequence_id
FROM sequences AS s
JOIN activations AS a ON a.run_id = s.run_id AND a.sequence_id = s.sequence_id AND a.position >= s.branch_position
UNION ALL
SELECT
    s.run_id,
    s.sequence_id,
    a.position,
    a.layer,
    a.site,
    a.stack,
    a.dtype,
    a.dim,
    a.scale,
    a.vector,
    s.branch_position,
    a.run_id AS source_run_id,
    a.sequence_id AS source_sequence_id
FROM sequences AS s
JOIN activations AS a
    ON a.run_id = s.parent_run_id AND a.sequence_id = s.parent_sequence_id AND a.position < s.branch_position
