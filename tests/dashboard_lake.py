"""A lake with the feature tables of one small autoencoder, made by hand."""

from pathlib import Path

import numpy as np
from vector_lakes import vector_lake

from tracelake.lake import Lake
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis, analysis_row

SAE = "m-resid_post-0-topk-3-abc"
ACTIVE = [(0, 0, 1, 2.0), (0, 1, 2, 6.0), (0, 1, 3, 4.0), (2, 2, 4, 1.5)]
"""(feature, sequence, position, activation); feature 1 is dead."""
EXAMPLES = [(0, "top", -1, 0, 1, 2, 6.0), (0, "quantile", 3, 0, 0, 1, 2.0), (0, "silent", -1, 0, 2, 2, 0.0),
            (2, "top", -1, 0, 2, 4, 1.5)]  # fmt: skip
"""(feature, kind, quantile, place, sequence, position, activation)"""


def dashboard_lake(path: Path) -> Lake:
    """Run `run-00` of 3 sequences of 5 tokens, with features of SAE; first tokens were left out."""
    lake = vector_lake(path, segments=1, sequences=3, length=5)
    row = {"sae_id": SAE, "arch": "topk", "layer": 0, "site": "resid_post", "d_in": 8, "d_out": 8, "d_sae": 3, "k": 1}
    with lake.start_run("sae-run", {"kind": "sae", "model": {"name": "m"}}) as run:
        with run.segment(0, (0, 1)) as segment:
            segment.append("saes", row)
        run.finish()
    analysis = Analysis("run-00", "sae-features", {"sae_id": SAE, "exclude": "first"}, "0" * 16)
    own = {"analysis_id": analysis.analysis_id, "sae_id": SAE}
    feature, sequence, position, activation = (np.array(column) for column in zip(*ACTIVE, strict=True))
    active = {"feature": feature, "sequence_id": sequence, "position": position, "activation": activation}
    names = ("feature", "kind", "quantile", "place", "sequence_id", "position", "activation")
    examples = {name: list(column) for name, column in zip(names, zip(*EXAMPLES, strict=True), strict=True)}
    tables = {
        "analyses": analysis_row(analysis, 3, [], None),
        "feature_stats": own | {"feature": [0, 1, 2], "n_active": [3, 0, 1]},
        "feature_activations": own | active,
        "feature_examples": own | examples,
    }
    commit_analysis(lake, analysis, tables)
    return lake
