-- One choice of one sequence, part by part: what the embedding, every attention and every MLP add to the logit of the
-- best token over the second, in the order in which they act; each bar begins where the one before it ends. Without a
-- step it is the closest choice of the sequence. Needs `lake analyze attribution RUN`.
-- title: What decides between two tokens
-- mark: bar
-- x: low:Q  logit difference so far
-- end: high:Q
-- y: place:O  part, in order
-- color: kind:N
-- tooltip: part, contribution, logit_diff, choice
-- reference: x 0
-- notice: choice
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = NULL  The sequence_id within the run; the one with the closest choice if not given.
-- param step BIGINT = NULL  The step of the choice; the closest one if not given.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses WHERE run_id = $run AND name = 'attribution'
),
rows AS (
    SELECT c.*, t.step
    FROM logit_contributions AS c
    JOIN latest USING (analysis_id)
    JOIN token_steps AS t ON t.run_id = c.run_id AND t.sequence_id = c.sequence_id AND t.position = c.position + 1
    WHERE c.run_id = $run AND c.part NOT IN ('head', 'attn_bias')
        AND c.sequence_id = coalesce($sequence, c.sequence_id) AND t.step = coalesce($step, t.step)
),
chosen AS (
    SELECT sequence_id, position FROM rows ORDER BY abs(logit_diff), sequence_id, position LIMIT 1
),
words AS (
    SELECT token_id, any_value(token) AS word FROM token_steps WHERE run_id = $run GROUP BY token_id
),
placed AS (
    SELECT
        rows.*,
        row_number() OVER (
            ORDER BY
                CASE part WHEN 'embedding' THEN -1 WHEN 'bias' THEN 1000000 ELSE 2 * layer + (part = 'mlp_out')::INT END
        ) AS place
    FROM rows JOIN chosen USING (sequence_id, position)
)
SELECT
    lpad((p.place - 1)::VARCHAR, if(count(*) OVER () > 99, 3, 2)::INT, '0') || ' ' || p.part || coalesce(' ' || p.layer, '') AS place,
    p.part || coalesce(' ' || p.layer, '') AS part,
    sum(p.contribution) OVER before_and_here - p.contribution AS low,
    sum(p.contribution) OVER before_and_here AS high,
    p.contribution,
    CASE WHEN p.contribution >= 0 THEN 'towards the best' ELSE 'towards the second' END AS kind,
    p.logit_diff,
    printf(
        'Sequence %d, step %d: %s over %s by %.3g logits.',
        p.sequence_id, p.step, '‹' || coalesce(a.word, p.token_a::VARCHAR) || '›',
        '‹' || coalesce(b.word, p.token_b::VARCHAR) || '›', p.logit_diff
    ) AS choice
FROM placed AS p
LEFT JOIN words AS a ON a.token_id = p.token_a
LEFT JOIN words AS b ON b.token_id = p.token_b
WINDOW before_and_here AS (ORDER BY p.place)
ORDER BY p.place
