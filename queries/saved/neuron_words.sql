-- What one neuron writes through later heads, in words: its first component as a sparse sum of tokens, or of the words
-- of a lexicon; the other sign is its opposite. Needs `lake analyze neuron-words RUN`.
-- title: Words that a neuron writes through later heads
-- mark: bar
-- x: coefficient:Q  coefficient
-- y: word:N
-- tooltip: place, explained, token_id, share
-- notice: which
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param layer BIGINT = NULL  The layer; that of the neuron whose component holds most if not given.
-- param neuron BIGINT = NULL  The neuron within the layer.
WITH latest AS (
    SELECT max_by(analysis_id, created_at) AS analysis_id FROM analyses
    WHERE run_id = $run AND name = 'neuron-words'
),
words AS (
    SELECT w.* FROM neuron_words AS w JOIN latest USING (analysis_id)
    WHERE w.run_id = $run
),
named AS (
    SELECT w.*, c.share
    FROM words AS w
    JOIN neuron_components AS c
        ON c.run_id = w.run_id AND c.analysis_id = w.components_id AND c.layer = w.layer AND c.neuron = w.neuron
),
wanted AS (
    SELECT layer, neuron FROM named
    WHERE layer = coalesce($layer, layer) AND neuron = coalesce($neuron, neuron)
    ORDER BY share DESC, layer, neuron
    LIMIT 1
)
SELECT
    n.place,
    n.word,
    n.token_id,
    n.coefficient,
    n.explained,
    n.share,
    'Layer ' || n.layer || ', neuron ' || n.neuron || '.' AS which
FROM named AS n JOIN wanted USING (layer, neuron)
ORDER BY n.place
