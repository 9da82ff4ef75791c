"""The tokens that a direction points to, and from, through the unembedding: what adding it would make more probable."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float

from ...lake import Lake
from ...lake.analyses import commit_analysis
from ...lake.derived import Analysis, analysis_row, input_digest, stored_analyses
from ...lake.errors import NotFoundError, UsageError
from ...lake.values import Columns, Row
from ..models.model import LoadedModel
from ..models.norms import norm_form
from ..models.readout import final_norm
from ..neurons.lexicon import Dictionary, unembedding
from .directions import SITE

RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
"""Sites whose states the final norm could read; of a direction in them its gain and centring are applied."""
SIGNS = {"toward": 1.0, "away": -1.0}


@dataclass
class DirectionTokens:
    """What a call did."""

    run_id: str
    analysis_id: str
    computed: bool
    n_directions: int
    notices: list[str] = field(default_factory=list)


def direction_tokens(lake: Lake, run: str, top: int, load: Callable[[], LoadedModel]) -> DirectionTokens:
    """Write `direction_tokens` of every direction of a run that lies in the residual stream or in final states."""
    if top < 1:
        raise UsageError(f"--top must be at least 1, not {top}.")
    run_id = lake.resolve_run(run)
    with lake.connect(run=run_id) as connection:
        rows = connection.sql(
            "select direction_id, any_value(site) as site, any_value(vector) as vector from directions "
            "where run_id = $1 group by direction_id order by direction_id",
            [run_id],
        )
    if not rows.height:
        raise NotFoundError(f"Run {run_id} has no directions: lake analyze directions {run_id}")
    analysis = Analysis(
        run_id, "direction-tokens", {"top": top}, input_digest(lake.snapshot(run_id), [("directions", {})])
    )
    stored = stored_analyses(lake.snapshot(run_id).runs[run_id])
    usable = [row for row in rows.iter_rows(named=True) if row["site"] in (SITE, *RESIDUAL)]
    result = DirectionTokens(run_id, analysis.analysis_id, analysis.analysis_id not in stored, len(usable))
    if not usable:
        raise UsageError(f"No direction of run {run_id} lies in {SITE} or the residual stream: tokens are read there.")
    if len(usable) < rows.height:
        result.notices.append(f"{rows.height - len(usable):,} directions lie in other sites and are left out.")
    if result.computed:
        columns = _columns(load(), usable, top) | {"analysis_id": analysis.analysis_id}
        about = analysis_row(analysis, 0, result.notices, None)
        commit_analysis(lake, analysis, {"analyses": about, "direction_tokens": columns})
    return result


def _columns(loaded: LoadedModel, directions: list[Row], top: int) -> Columns:
    words = unembedding(loaded)
    norm = norm_form(final_norm(loaded.decoder), loaded.d_model, loaded.device)
    # A constant added to all logits changes no probability.
    centred = words.vectors.astype(np.float64) - words.vectors.mean(axis=0, dtype=np.float64)
    rows: list[Row] = []
    for direction in directions:
        vector = torch.tensor(direction["vector"], dtype=torch.float64)
        if direction["site"] != SITE:
            vector = norm.gained(norm.centre(vector.to(norm.gain.device))).cpu()
        rows += _nearest(direction["direction_id"], vector.numpy(), centred, words, top)
    return {name: [row[name] for row in rows] for name in rows[0]}


def _nearest(
    name: str,
    vector: Float[np.ndarray, " d_model"],
    centred: Float[np.ndarray, "token d_model"],
    words: Dictionary,
    top: int,
) -> list[Row]:
    size = float(np.linalg.norm(vector))
    scores = centred @ (vector / size if size > 0 else vector)
    rows = []
    for word, sign in SIGNS.items():
        order = np.argsort(-sign * scores, kind="stable")[:top]
        rows += [
            {
                "direction_id": name, "sign": word, "place": place, "token_id": int(token),
                "token": words.words[token], "score": float(scores[token]),
            }
            for place, token in enumerate(order)
        ]  # fmt: skip
    return rows
