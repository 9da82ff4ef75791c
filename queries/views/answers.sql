-- Sequences that have a reference answer: one row per graded completion, with its outcome in words.
-- column outcome: `correct` or `wrong`.
-- column level: Difficulty level of the problem, from the input's metadata; null if it has none.
SELECT
    run_id,
    sequence_id,
    prompt_id,
    item_id,
    sample,
    origin,
    temperature,
    dataset,
    split,
    CASE WHEN json_valid(metadata) THEN metadata ->> '$.level' END AS level,
    answer,
    predicted_answer,
    correct,
    CASE WHEN correct THEN 'correct' ELSE 'wrong' END AS outcome,
    label_reason,
    solution_method,
    finish_reason,
    n_prompt_tokens,
    n_generated_tokens,
    prompt,
    completion
FROM sequences
WHERE correct IS NOT NULL
