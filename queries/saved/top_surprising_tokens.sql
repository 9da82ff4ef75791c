-- The tokens that surprised the model most, each with the text that leads up to it (and ends with it).
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param part TEXT = generated  Where to look: generated or prompt.
-- param limit BIGINT = 25  How many to show.
WITH top AS (
    SELECT run_id, sequence_id, position, step, token, char_end, surprisal_bits, entropy_bits, rank
    FROM token_steps
    WHERE run_id = $run AND is_forced IS NOT TRUE AND isfinite(surprisal_bits) AND (step IS NULL) = ($part = 'prompt')
    ORDER BY surprisal_bits DESC, sequence_id, position
    LIMIT $limit
)
SELECT
    t.sequence_id,
    t.position,
    t.step,
    t.token,
    t.surprisal_bits,
    t.entropy_bits,
    t.rank,
    s.correct,
    right(
        left(CASE WHEN t.step IS NULL THEN coalesce(s.rendered_prompt, s.prompt) ELSE s.completion END, t.char_end), 60
    ) AS text_before
FROM top AS t
JOIN sequences AS s USING (run_id, sequence_id)
ORDER BY t.surprisal_bits DESC, t.sequence_id, t.position
