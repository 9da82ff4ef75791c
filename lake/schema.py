"""All tables of a lake, as data: name, Arrow type, unit and one sentence for every column.

Docs, empty views, DuckDB comments and the writer's checks all derive from `TABLES`; the tables themselves are in
`tables/`, by subject. Knows nothing of files.
"""

from collections.abc import Iterable

from .tables.autoencoders.saes import (  # fmt: skip
    FEATURE_ACTIVATIONS,
    FEATURE_EXAMPLES,
    FEATURE_JUDGEMENTS,
    FEATURE_STATS,
    SAE_EVALUATIONS,
    SAE_FEATURES,
    SAE_TRAINING,
    SAES,
)
from .tables.autoencoders.tracks import FEATURE_LINKS, TRACK_METRICS, TRACK_POINTS, TRACKS
from .tables.comparisons import COMPARISONS, FINGERPRINTS, TRAJECTORY_CORRELATIONS
from .tables.correctness.detection import (  # fmt: skip
    DETECTION_CURVES,
    DETECTION_IMPORTANCES,
    DETECTION_SCORES,
    DETECTIONS,
    DETECTOR_TERMS,
    DETECTORS,
    RISK_COVERAGE,
)
from .tables.correctness.directions import DIRECTION_PROJECTIONS, DIRECTION_SCORES, DIRECTION_TOKENS, DIRECTIONS
from .tables.correctness.labels import GRADES, LABELS
from .tables.imports import IMPORTED_METRICS
from .tables.neurons.ablations import ABLATED_PROBLEMS, EFFECT_VALIDATION, LAYER_ABLATIONS, NEURON_ABLATIONS
from .tables.neurons.effects import (  # fmt: skip
    NEURON_EFFECTS,
    NEURON_RANKS,
    SECOND_ORDER_HEADS,
    SECOND_ORDER_SCORES,
    SECOND_ORDER_TOKENS,
)
from .tables.neurons.neuron_words import NEURON_COMPONENTS, NEURON_WORDS, SECOND_ORDER_PATHS
from .tables.paths import (
    PERSISTENCE_PAIRS,
    PERSISTENCE_SUMMARIES,
    STEP_EMBEDDINGS,
    TRAJECTORIES,
    TRAJECTORY_SUMMARIES,
)  # fmt: skip
from .tables.readouts import LOGIT_CONTRIBUTIONS, LOGIT_LENS
from .tables.runs import ANALYSES, OPERATIONS, RUNS
from .tables.sampling.spread import (  # fmt: skip
    CLUSTER_SUMMARIES,
    JUDGEMENTS,
    ORACLE_DISTANCES,
    PASS_RATES,
    PATH_SENSITIVITY,
    SAMPLING_VARIANCE,
    SOLUTION_CLUSTERS,
)
from .tables.sampling.steering import ORACLE_SOLUTIONS, STEERING_EFFECTS
from .tables.series import GENERATION_SERIES
from .tables.states import ACTIVATIONS, ATTENTION_EDGES, ATTENTION_PATTERNS, HEAD_SUMMARIES, LAYER_SUMMARIES
from .tables.table import Table
from .tables.tokens import SEQUENCES, TOKEN_STEPS

SCHEMA_VERSION = 1

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *(RUNS, SEQUENCES, TOKEN_STEPS),
        *(LAYER_SUMMARIES, HEAD_SUMMARIES, ATTENTION_EDGES, ATTENTION_PATTERNS, ACTIVATIONS),
        GENERATION_SERIES,
        *(STEP_EMBEDDINGS, SAES, SAE_TRAINING, SAE_FEATURES, OPERATIONS, IMPORTED_METRICS),
        # Written by analyses: every row names its analysis, and all can be computed again.
        *(ANALYSES, TRAJECTORIES, TRAJECTORY_SUMMARIES, PERSISTENCE_PAIRS, PERSISTENCE_SUMMARIES),
        *(FINGERPRINTS, COMPARISONS, TRAJECTORY_CORRELATIONS, LABELS, GRADES),
        *(SAE_EVALUATIONS, FEATURE_ACTIVATIONS, FEATURE_STATS, FEATURE_EXAMPLES, FEATURE_JUDGEMENTS),
        *(DIRECTIONS, DIRECTION_SCORES, DIRECTION_PROJECTIONS, DIRECTION_TOKENS),
        *(SAMPLING_VARIANCE, ORACLE_DISTANCES, PATH_SENSITIVITY, PASS_RATES),
        *(SOLUTION_CLUSTERS, CLUSTER_SUMMARIES, JUDGEMENTS, ORACLE_SOLUTIONS, STEERING_EFFECTS),
        *(FEATURE_LINKS, TRACKS, TRACK_POINTS, TRACK_METRICS),
        *(DETECTIONS, DETECTION_SCORES, DETECTION_CURVES, DETECTION_IMPORTANCES, RISK_COVERAGE),
        *(DETECTORS, DETECTOR_TERMS),
        *(LOGIT_LENS, LOGIT_CONTRIBUTIONS),
        *(NEURON_RANKS, SECOND_ORDER_SCORES, SECOND_ORDER_HEADS, SECOND_ORDER_TOKENS, NEURON_EFFECTS),
        *(SECOND_ORDER_PATHS, NEURON_COMPONENTS, NEURON_WORDS),
        *(ABLATED_PROBLEMS, LAYER_ABLATIONS, NEURON_ABLATIONS, EFFECT_VALIDATION),
    )
}


def stored_tables() -> Iterable[Table]:
    """Tables that have files; `runs` is derived from records."""
    return (table for table in TABLES.values() if table.kind != "view")
