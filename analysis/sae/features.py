"""Everything about the features of an autoencoder on a run: activations, statistics, examples, labels. Resumable."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import polars as pl
import torch

from ...lake import Lake
from ...lake.analyses import commit_analysis, remove_analysis
from ...lake.derived import Analysis, analysis_row, input_digest, stored_analyses
from ...lake.errors import ConfigError
from ...lake.sql.duck import Connection
from ...lake.values import Columns, Json, Row
from . import evaluation
from .encode import encode_run, sort_by_feature
from .examples import example_columns
from .folder import load_sae
from .labels import rule_labels
from .sae import Sae

NAME = "sae-features"
VERSION = 1
TOP_TOKENS = 10
BLOCK = 2048
"""Rows of the matrix of cosines that are alive at one time."""

STATS = """
WITH active AS (
    SELECT * FROM feature_activations WHERE run_id = $run AND sae_id = $sae AND analysis_id = $analysis
), counted AS (
    SELECT a.feature, t.token, count(*) AS n,
        row_number() OVER (PARTITION BY a.feature ORDER BY count(*) DESC, t.token) AS place
    FROM active AS a JOIN token_steps AS t USING (run_id, sequence_id, position)
    WHERE t.token IS NOT NULL
    GROUP BY a.feature, t.token
    QUALIFY place <= $tokens
), top AS (
    SELECT feature, list(token ORDER BY place) AS top_tokens, list(n ORDER BY place) AS top_token_counts
    FROM counted GROUP BY feature
), numbers AS (
    SELECT
        feature,
        count(*) AS n_active,
        count(DISTINCT sequence_id) AS n_sequences,
        sum(activation::DOUBLE) AS sum,
        sum(activation::DOUBLE * activation) AS sum_sq,
        max(activation) AS max,
        quantile_cont(activation, 0.5)::FLOAT AS q50,
        quantile_cont(activation, 0.9)::FLOAT AS q90,
        quantile_cont(activation, 0.99)::FLOAT AS q99
    FROM active GROUP BY feature
)
SELECT * FROM numbers LEFT JOIN top USING (feature) ORDER BY feature
"""

Logits = Callable[[Sae], tuple[list[list[str]], list[list[str]]]]
"""Gives the tokens that each decoder row raises and lowers most; needs a model, so it comes from above."""


@dataclass(frozen=True)
class FeatureTables:
    """What is in the lake about the features of an autoencoder on a run."""

    sae_id: str
    run_id: str
    analysis_id: str
    computed: bool
    n_rows: dict[str, int]
    seconds: float

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return asdict(self)


def feature_tables(
    lake: Lake,
    name: str,
    run: str,
    *,
    logits: Logits | None = None,
    should_stop: Callable[[], None] = lambda: None,
    on_progress: Callable[[int], None] = lambda n_rows: None,
) -> FeatureTables:
    """The feature tables of an autoencoder on a run: found, completed or computed."""
    began = time.perf_counter()
    sae = load_sae(lake, name)
    run_id = evaluation.run_to_read(lake, sae, run)
    evaluation.check_model(lake, sae, run_id)
    if lake.run_status(run_id) == "running":
        raise ConfigError(f"Run {run_id} is still growing: its features would be of a part. Wait until it is complete.")
    layer, site, _ = evaluation.place_of(sae)
    exclude = evaluation.trained_exclusion(lake, sae)
    snapshot = lake.snapshot(run_id)
    asked = {"sae_id": sae.sae_id, "exclude": exclude, "version": VERSION}
    reads = [("activations", {"site": site, "layer": layer}), ("sequences", {}), ("token_steps", {})]
    analysis = Analysis(run_id, NAME, asked, input_digest(snapshot, reads))
    stored = stored_analyses(snapshot.runs[run_id])
    known = stored.get(analysis.analysis_id)
    computed = known is None or not known.n_rows.get("analyses")
    if computed:
        _withdraw_older(
            lake, analysis, [one.analysis_id for one in stored.values() if one.question == analysis.question]
        )
        if known is None or not known.n_rows.get("feature_activations"):
            encode_run(lake, sae, analysis, exclude, should_stop, on_progress)
        sort_by_feature(lake, sae.sae_id, analysis, should_stop)
        _interpret(lake, sae, analysis, 0 if exclude == "none" else 1, logits)
    rows = stored_analyses(lake.snapshot(run_id).runs[run_id])[analysis.analysis_id].n_rows
    return FeatureTables(sae.sae_id, run_id, analysis.analysis_id, computed, rows, time.perf_counter() - began)


def _withdraw_older(lake: Lake, analysis: Analysis, ids: list[str]) -> None:
    """Take out what was computed before the run grew: its rows would stand beside the new ones."""
    for analysis_id in ids:
        if analysis_id != analysis.analysis_id:
            remove_analysis(lake, analysis_id, dry_run=False)


def _interpret(lake: Lake, sae: Sae, analysis: Analysis, first: int, logits: Logits | None) -> None:
    run_id = analysis.run_id
    with lake.connect(run=run_id, locked=True) as connection:
        stats = _stats(connection, sae, analysis, first)
        examples = example_columns(connection, run_id, sae.sae_id, analysis.analysis_id, first)
        n_sequences = connection.sql("SELECT count(*) AS n FROM sequences WHERE run_id = $run", {"run": run_id})["n"][0]
    columns: Columns = {name: stats[name].to_arrow() for name in stats.columns}
    if logits is not None:
        columns["top_logits"], columns["bottom_logits"] = logits(sae)
    named = {"sae_id": sae.sae_id, "analysis_id": analysis.analysis_id}
    tables: Columns = {
        "analyses": analysis_row(analysis, int(n_sequences), [], None),
        "feature_stats": columns | named,
    }
    if len(examples["feature"]):
        tables["feature_examples"] = examples | named
    commit_analysis(lake, analysis, tables, replace=False, partial=True)


def _stats(connection: Connection, sae: Sae, analysis: Analysis, first: int) -> pl.DataFrame:
    """Columns of `feature_stats`, one row per feature, dead ones included."""
    given = {"run": analysis.run_id, "sae": sae.sae_id, "analysis": analysis.analysis_id}
    numbers = connection.sql(STATS, {**given, "tokens": TOP_TOKENS})
    labels = rule_labels(connection, analysis.run_id, sae.sae_id, analysis.analysis_id, first)
    every = pl.DataFrame({"feature": pl.Series(range(sae.d_sae), dtype=pl.Int32), **_geometry(sae)})
    joined = every.join(numbers, on="feature", how="left").join(labels, on="feature", how="left").sort("feature")
    silent = pl.col("n_active").is_null()
    reason = pl.when(silent).then(pl.lit("never active")).otherwise(pl.col("label_reason")).alias("reason")
    zeros = [pl.col(name).fill_null(0) for name in ("n_active", "n_sequences", "sum", "sum_sq")]
    return joined.with_columns(reason, *zeros).drop("label_reason")


@torch.no_grad()
def _geometry(sae: Sae) -> Row:
    """Cosines of every decoder row: with the nearest other one, and with its encoder column."""
    rows = evaluation.normed(sae.weights["W_dec"].double())
    nearest = []
    for start in range(0, len(rows), BLOCK):
        cosines = rows[start : start + BLOCK] @ rows.T
        places = torch.arange(len(cosines))
        cosines[places, start + places] = -2.0
        nearest.append(cosines.amax(1))
    found: Json = {"max_cos_other": pl.Series(torch.cat(nearest).float().numpy())}
    if sae.weights["W_dec"].shape[1] == sae.d_in:
        columns = evaluation.normed(sae.weights["W_enc"].double().T)
        found["encoder_decoder_cos"] = pl.Series((rows * columns).sum(1).float().numpy())
    return found
