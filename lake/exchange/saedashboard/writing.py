"""`batch-N.json` of SAEDashboard 0.8: one record per feature, with its examples token by token.

What needs the model (logits) or the neuron basis is left empty: the tables of features do not hold it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...derived import StoredAnalysis, stored_analyses
from ...errors import NotFoundError, UsageError
from ...output.files import replace_file
from ...values import Json, JsonView, Row

if TYPE_CHECKING:
    from ...lake import Lake
    from ...sql.duck import Connection

BEFORE, AFTER = 64, 32
"""Tokens around the one that an example is of."""
BARS = 50
TOP = (-1.0, 99.0, -1.0)
"""How SAEDashboard writes the bin of the strongest examples."""
EMPTY = (
    "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1", "correlated_neurons_indices",
    "correlated_neurons_l1", "correlated_neurons_pearson", "correlated_features_indices", "correlated_features_l1",
    "correlated_features_pearson", "neg_str", "neg_values", "pos_str", "pos_values", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "decoder_weights_dist", "vector",
)  # fmt: skip


@dataclass(frozen=True)
class WrittenBatches:
    """What was written."""

    folder: str
    sae_id: str
    run_id: str
    n_features: int
    files: tuple[str, ...]


def export_dashboard(
    lake: "Lake", sae: str, folder: Path, *, run: str = "latest", per_file: int = 128
) -> WrittenBatches:
    """Write the features that are active on a run, `per_file` to a file; NotFoundError if none were computed on it."""
    if per_file < 1:
        raise UsageError(f"--per-file must be at least 1, not {per_file}.")
    run_id = lake.resolve_run(run)
    row, analysis = _features_of(lake, sae, run_id)
    with lake.connect(locked=True) as connection:
        writer = _Writer(connection, run_id, analysis, row, _facts(connection, lake, run_id, analysis))
        features = writer.features()
        if not features:
            raise NotFoundError(f"No feature of {row['sae_id']} is active on run {run_id}: there is nothing to show.")
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for number, start in enumerate(range(0, len(features), per_file)):
            name = f"batch-{number}.json"
            body = writer.batch(features[start : start + per_file])
            replace_file(folder / name, json.dumps(body, ensure_ascii=False).encode())
            files.append(name)
    return WrittenBatches(str(folder), str(row["sae_id"]), run_id, len(features), tuple(files))


def _features_of(lake: "Lake", sae: str, run_id: str) -> tuple[Json, StoredAnalysis]:
    """The row of the autoencoder, and the analysis that computed its features on the run."""
    rows = [row for row in lake.scan("saes").collect().to_dicts() if str(row["sae_id"]).startswith(sae)]
    ids = sorted({str(row["sae_id"]) for row in rows})
    if len(ids) != 1 and sae not in ids:
        what = f"is ambiguous: {', '.join(ids)}" if ids else "is no autoencoder here; `lake sae list` shows them"
        raise NotFoundError(f"{sae!r} {what}.")
    row = next(row for row in rows if row["sae_id"] == (sae if sae in ids else ids[0]))
    stored = stored_analyses(lake.snapshot(run_id).runs[run_id]).values()
    own = [a for a in stored if a.parameters.get("sae_id") == row["sae_id"] and a.n_rows.get("feature_stats")]
    if not own:
        raise NotFoundError(
            f"The features of {row['sae_id']} were not computed on run {run_id}: "
            f"lake sae features {row['sae_id']} --run {run_id}."
        )
    return row, own[-1]


def _facts(connection: "Connection", lake: "Lake", run_id: str, analysis: StoredAnalysis) -> Json:
    """Sequences, longest sequence, dataset, and the tokens that were encoded: the first ones may be left out."""
    model = lake.run_json(run_id).get("model") or {}
    kept = {"first": "position > 0", "special": "position > 0 AND NOT list_contains($special, token_id)"}
    where = kept.get(str(analysis.parameters.get("exclude")), "true")
    special = {"special": model.get("special_ids") or []} if "$special" in where else {}
    tokens = f"SELECT count(*) AS n FROM token_steps WHERE run_id = $run AND {where}"
    sequences = (
        "SELECT count(*) AS n_prompts_total, max(n_prompt_tokens + coalesce(n_generated_tokens, 0)) AS longest, "
        "any_value(dataset) AS dataset FROM sequences WHERE run_id = $run"
    )
    about = connection.sql(sequences, {"run": run_id}).to_dicts()[0]
    n = connection.sql(tokens, {"run": run_id} | special)["n"][0]
    return about | {"n_tokens": n, "model": str(model.get("name") or "")}


@dataclass(frozen=True)
class _Writer:
    """Makes records from one autoencoder's tables on one run."""

    connection: "Connection"
    run_id: str
    analysis: StoredAnalysis
    sae: JsonView
    facts: JsonView

    def features(self) -> list[int]:
        """Features that were active, in order."""
        rows = self._rows("SELECT feature FROM feature_stats WHERE {own} AND n_active > 0 ORDER BY feature")
        return [row["feature"] for row in rows]

    def batch(self, features: list[int]) -> Json:
        """One file: the autoencoder's name and its records."""
        between = {"low": features[0], "high": features[-1]}
        inside = "{own} AND feature BETWEEN $low AND $high"
        listed = self._rows(f"SELECT * FROM feature_stats WHERE {inside}", between)
        stats = {row["feature"]: row for row in listed}
        grouped = "SELECT feature, list(activation) AS values FROM feature_activations"
        values = self._rows(f"{grouped} WHERE {inside} GROUP BY feature", between)
        activations = {row["feature"]: np.asarray(row["values"], np.float64) for row in values}
        shown: dict[int, list[Row]] = {feature: [] for feature in features}
        for feature, example in self._examples(between):
            shown.setdefault(feature, []).append(example)
        records = [
            _record(stats[feature], activations.get(feature, np.empty(0)), shown[feature], self.facts)
            for feature in features
        ]
        place = f"{self.sae['layer']}-{self.sae['site']}"
        return {
            "model_id": self.facts["model"], "layer": int(self.sae["layer"]), "sae_set": place,
            "sae_id_suffix": str(self.sae["sae_id"]), "features": records,
        }  # fmt: skip

    def _examples(self, between: Mapping[str, int]) -> Iterator[tuple[int, Json]]:
        """Examples with the tokens around them and the feature's activation on each, in the order of the tables."""
        rows = self._rows(
            f"""
            SELECT
                e.feature, e.kind, e.quantile, e.place,
                list(t.token ORDER BY t.position) AS tokens,
                list(coalesce(a.activation, 0) ORDER BY t.position) AS values,
                count(*) FILTER (WHERE t.position < e.position) AS before
            FROM (
                SELECT * FROM feature_examples
                WHERE {{own}} AND kind <> 'silent' AND feature BETWEEN $low AND $high
            ) AS e
            JOIN token_steps AS t
                ON t.run_id = e.run_id AND t.sequence_id = e.sequence_id
                AND t.position BETWEEN e.position - {BEFORE} AND e.position + {AFTER}
            LEFT JOIN (SELECT * FROM feature_activations WHERE {{own}} AND feature BETWEEN $low AND $high) AS a
                ON a.feature = e.feature AND a.sequence_id = e.sequence_id AND a.position = t.position
            GROUP BY e.feature, e.kind, e.quantile, e.place
            ORDER BY e.feature, e.kind DESC, e.quantile DESC, e.place
            """,
            between,
        )
        peaks = {(r["feature"], r["quantile"]): r for r in self._bins(between)}
        for row in rows:
            low, high, share = TOP
            if row["kind"] == "quantile":
                bin_of = peaks[row["feature"], row["quantile"]]
                low, high, share = bin_of["low"], bin_of["high"], 0.1
            yield row["feature"], {
                "bin_min": float(low), "bin_max": float(high), "bin_contains": share, "tokens": row["tokens"],
                "values": [float(value) for value in row["values"]], "qualifying_token_index": int(row["before"]),
            }  # fmt: skip

    def _bins(self, between: Mapping[str, int]) -> list[Row]:
        """Smallest and largest activation of the examples of each tenth."""
        return self._rows(
            "SELECT feature, quantile, min(activation) AS low, max(activation) AS high FROM feature_examples "
            "WHERE {own} AND kind = 'quantile' AND feature BETWEEN $low AND $high GROUP BY 1, 2",
            between,
        )

    def _rows(self, query: str, parameters: Mapping[str, int] | None = None) -> list[Row]:
        own = "run_id = $run AND analysis_id = $analysis AND sae_id = $sae"
        given = {"run": self.run_id, "analysis": self.analysis.analysis_id, "sae": self.sae["sae_id"]}
        return self.connection.sql(query.format(own=own), given | dict(parameters or {})).to_dicts()


def _record(stats: JsonView, activations: np.ndarray, examples: list[Row], facts: JsonView) -> Json:
    heights, edges = np.histogram(activations, BARS) if len(activations) else (np.empty(0), np.empty(1))
    return {name: [] for name in EMPTY} | {
        "feature_index": int(stats["feature"]),
        "frac_nonzero": stats["n_active"] / facts["n_tokens"] if facts["n_tokens"] else 0.0,
        "freq_hist_data_bar_values": ((edges[:-1] + edges[1:]) / 2).tolist() if len(activations) else [],
        "freq_hist_data_bar_heights": heights.tolist(),
        "n_prompts_total": int(facts["n_prompts_total"]),
        "n_tokens_in_prompt": int(facts["longest"] or 0),
        "dataset": str(facts["dataset"] or ""),
        "activations": examples,
    }
