-- The path of one completion through embedding space: cosine of each step's embedding to the first and to the one before.
-- title: Path of the text's embedding
-- mark: line
-- x: step:Q
-- y: cosine:Q  cosine similarity
-- color: compared_with:N  compared with
-- facet: embedding:N
-- tooltip: position
-- param run RUN = latest  The run: id, unique prefix, tag or latest.
-- param sequence BIGINT = 0  The sequence_id within the run.
-- param scope TEXT = NULL  Only this scope of text; all if not given.
WITH path AS (
    SELECT
        embedder || ', ' || scope AS embedding,
        step,
        position,
        vector,
        first_value(vector) OVER steps AS first_vector,
        lag(vector) OVER steps AS previous_vector
    FROM step_embeddings
    WHERE run_id = $run AND sequence_id = $sequence AND ($scope IS NULL OR scope = $scope) AND step IS NOT NULL
    WINDOW steps AS (PARTITION BY embedder, scope ORDER BY position)
)
SELECT embedding, step, position, 'first step' AS compared_with, list_cosine_similarity(vector, first_vector) AS cosine
FROM path
UNION ALL
SELECT embedding, step, position, 'step before', list_cosine_similarity(vector, previous_vector)
FROM path
WHERE previous_vector IS NOT NULL
ORDER BY embedding, compared_with, step
