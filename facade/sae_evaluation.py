"""Evaluating autoencoders: sums over stored vectors, and what the model loses when it goes on with reconstructions."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import torch

from ..analysis.sae import evaluation
from ..analysis.sae.evaluation import ALL, RowSums
from ..analysis.sae.folder import load_sae
from ..analysis.sae.sae import Sae
from ..lake import Lake
from ..lake.analyses import commit_analysis
from ..lake.derived import Analysis, analysis_row, input_digest, stored_analyses
from ..lake.errors import NotFoundError
from ..lake.values import Columns, Json, Row

CONDITIONS = ("reconstruction", "zero", "mean")
VERSION = 1


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked of every autoencoder."""

    split: str | None = None
    model: str | None = None
    """The model to load where the run's own is no folder of this machine."""
    with_model: bool = True
    max_sequences: int | None = None
    """Sequences of the cross-entropies, the first ones; all if None."""
    device: str = "cpu"


@dataclass(frozen=True)
class Evaluated:
    """One evaluation in the lake."""

    sae_id: str
    run_id: str
    analysis_id: str
    computed: bool
    seconds: float
    metrics: Json

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self)


def evaluate(
    lake: Lake, name: str, run: str, options: EvaluationOptions, *, force: bool = False,
    should_stop: Callable[[], None] = lambda: None,
) -> Evaluated:  # fmt: skip
    """The evaluation of an autoencoder on a run: looked up, or computed and stored."""
    began = time.perf_counter()
    sae = load_sae(lake, name)
    run_id = evaluation.run_to_read(lake, sae, run)
    evaluation.check_model(lake, sae, run_id)
    layer, site, to = evaluation.place_of(sae)
    exclude = evaluation.trained_exclusion(lake, sae)
    snapshot = lake.snapshot(run_id)
    reads: list[Any] = [("activations", {"site": site, "layer": layer}), ("sequences", {})]
    if to is not None:
        reads.append(("activations", {"site": to[1], "layer": to[0]}))
    asked = {
        "sae_id": sae.sae_id, "weights": (sae.about or {}).get("weights_sha256"), "split": options.split,
        "exclude": exclude, "model": options.with_model, "max_sequences": options.max_sequences, "version": VERSION,
    }  # fmt: skip
    analysis = Analysis(run_id, "sae-eval", asked, input_digest(snapshot, reads))
    computed = force or analysis.analysis_id not in stored_analyses(snapshot.runs[run_id])
    if computed:
        sums = evaluation.row_sums(lake, sae, run_id, options.split, exclude)
        columns = sums.columns() | {"sae_id": sae.sae_id, "split": options.split or ALL}
        columns |= _losses(lake, sae, sums, run_id, options, exclude, should_stop)
        columns["analysis_id"] = analysis.analysis_id
        commit_analysis(lake, analysis, {"analyses": analysis_row(analysis, 0, [], None), "sae_evaluations": columns})
    return Evaluated(
        sae.sae_id, run_id, analysis.analysis_id, computed, time.perf_counter() - began,
        _metrics(lake, run_id, analysis.analysis_id),
    )  # fmt: skip


def _metrics(lake: Lake, run_id: str, analysis_id: str) -> Row:
    from ..queries.derived_views import view_definitions

    query = "SELECT * FROM sae_metrics WHERE run_id = $run AND analysis_id = $analysis"
    with lake.connect(run=run_id, extra_views=view_definitions(), locked=True) as connection:
        rows = connection.sql(query, {"run": run_id, "analysis": analysis_id})
    return rows.drop("run_id", "analysis_id", "sae_id").to_dicts()[0]


def _losses(
    lake: Lake, sae: Sae, sums: RowSums, run_id: str, options: EvaluationOptions, exclude: str,
    should_stop: Callable[[], None],
) -> Json:  # fmt: skip
    """Cross-entropies and divergences, or why there are none."""
    layer, site, to = evaluation.place_of(sae)
    if not options.with_model:
        return {"reason": "cross-entropies: no model was asked for"}
    if to is not None:
        return {"reason": "cross-entropies: a transcoder reads another site than it replaces"}
    from ..collect.models.editing.changes import Mean, Replace, Zero
    from ..collect.rereading.site_loss import CLEAN, site_losses
    from ..collect.stored_sequences import load_run_model

    loaded = load_run_model(lake, run_id, model=options.model, device=options.device)
    if loaded.encoder is not None:
        return {"reason": "cross-entropies: not computed for encoder-decoder models"}
    sae = sae.to(options.device)

    def reconstructed(states: torch.Tensor) -> torch.Tensor:
        flat = states.flatten(0, -2).float()
        return sae.reconstruct(flat).view(states.shape)

    changes = {
        "reconstruction": Replace(reconstructed, sae.sae_id, sae.d_in),
        "zero": Zero(),
        "mean": Mean(sums.mean.float()),
    }
    first = 0 if exclude == "none" else 1
    ids = _sequences(lake, run_id, options)
    found = site_losses(lake, run_id, loaded, site, layer, changes, ids, first=first, should_stop=should_stop)
    columns: Columns = {"n_ce": found.n_tokens, "sum_ce_clean": found.cross_entropy[CLEAN]}
    for condition in CONDITIONS:
        columns[f"sum_ce_{condition}"] = found.cross_entropy[condition]
        columns[f"sum_kl_{condition}"] = found.divergence[condition]
    return columns


def _sequences(lake: Lake, run_id: str, options: EvaluationOptions) -> list[int]:
    """Sequences of the split, in the order of their ids."""
    rows = lake.scan("sequences", run_id)
    if options.split is not None:
        rows = rows.filter(pl.col("split") == options.split)
    ids = rows.select("sequence_id").sort("sequence_id").collect()["sequence_id"].to_list()
    if not ids:
        raise NotFoundError(f"Run {run_id} has no sequences of the split {options.split!r}.")
    return ids if options.max_sequences is None else ids[: options.max_sequences]
