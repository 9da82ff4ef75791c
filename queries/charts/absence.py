"""Why a query has no rows: what the run did not keep, could not measure, or what no analysis has computed yet."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...lake.schema import TABLES
from ..saved_query import SavedQuery
from .axis_titles import visible

if TYPE_CHECKING:
    from ...lake.sql.duck import Connection

KEPT = {
    "attention_edges": ("The attention between single tokens of the prompt", "edges"),
    "head_summaries": ("The attention of the heads", "heads"),
    "layer_summaries": ("The state of the layers", "layers"),
    "activations": ("The vectors of the states", "activations:resid_post"),
    "step_embeddings": ("The embeddings of the growing text", "embeddings"),
}
"""What a table holds and the item of `--keep` that fills it."""
DISTRIBUTION = ("The distribution of the tokens", "tokens")
_ANALYSES = {
    "trajectories": "trajectory",
    "trajectory_summaries": "trajectory",
    "persistence_pairs": "topology",
    "persistence_summaries": "topology",
    "fingerprints": "compare",
    "comparisons": "compare",
    "trajectory_correlations": "compare",
}
_OF_SAES = {
    "sae_training": "lake sae train",
    "sae_evaluations": "lake sae eval SAE --run",
    "sae_metrics": "lake sae eval SAE --run",
    "sae_features": "lake sae features SAE --run",
    "feature_activations": "lake sae features SAE --run",
    "feature_stats": "lake sae features SAE --run",
    "feature_examples": "lake sae features SAE --run",
}
"""Tables and views about autoencoders, and the command that fills them."""
_COLUMNS = re.compile(r"\b(surprisal_bits|entropy_bits|logprob|rank|top1_prob|margin|topk_ids)\b")


def not_kept(what: str, item: str, reason: str | None = None) -> str:
    """One sentence for an empty place: what would fill it, or why it could not be measured."""
    if reason:
        return f"{what} could not be measured in this run: {visible(reason)}."
    return f"{what} was not kept in this run; collect with --keep {item} to see it."


def not_computed(analysis: str, run_id: str) -> str:
    """One sentence for an empty place that an analysis fills."""
    return f"No {analysis} has been computed of this run: lake analyze {analysis} {run_id}"


def why_empty(
    query: SavedQuery, connection: "Connection", values: Mapping[str, object], unmeasured: Mapping[str, str]
) -> str | None:
    """What explains an empty answer, from what the lake holds of the query's run; None if nothing does."""
    run_id = values.get("run")
    if not isinstance(run_id, str):
        return None
    if missing := _missing_sequence(connection, run_id, values.get("sequence")):
        return missing
    words = set(re.findall(r"\w+", query.sql))
    if missing := next(filter(None, (_of_saes(connection, run_id, name) for name in _OF_SAES if name in words)), None):
        return missing
    for table in (name for name in TABLES if name in words and (name in KEPT or name in _ANALYSES)):
        if _count(connection, f"SELECT count(*) FROM (FROM {table} WHERE run_id = $run LIMIT 1)", run_id):
            continue
        if table in KEPT:
            return not_kept(*KEPT[table], unmeasured.get(table))
        return not_computed(_ANALYSES[table], run_id)
    if _COLUMNS.search(query.sql) and "token_steps" in words | {"token_steps"}:
        measured = "SELECT count(*) FROM (FROM token_steps WHERE run_id = $run AND logprob IS NOT NULL LIMIT 1)"
        if not _count(connection, measured, run_id):
            return not_kept(*DISTRIBUTION, unmeasured.get("token_steps"))
    if re.search(r"\bcorrect\b", query.sql):
        graded = "SELECT count(*) FROM (FROM sequences WHERE run_id = $run AND correct IS NOT NULL LIMIT 1)"
        if not _count(connection, graded, run_id):
            return "No sequence of this run is graded: collect prompts with an `answer`."
    return None


def _of_saes(connection: "Connection", run_id: str, table: str) -> str | None:
    """Why a table about autoencoders has nothing of this run: what would fill it, and the runs where it is filled."""
    if _count(connection, f"SELECT count(*) FROM (FROM {table} WHERE run_id = $run LIMIT 1)", run_id):
        return None
    filled = [run for (run,) in connection.execute(f"SELECT DISTINCT run_id FROM {table} ORDER BY run_id").fetchall()]
    [(kind,)] = connection.execute("SELECT any_value(kind) FROM runs WHERE run_id = $run", {"run": run_id}).fetchall()
    command = _OF_SAES[table]
    made = command if table == "sae_training" else f"{command} {run_id if kind != 'sae' else 'THE RUN THAT WAS READ'}"
    there = f" Runs that have them: {', '.join(filled[-5:])}." if filled else ""
    return f"Run {run_id} has no rows of {table}: `{made}` makes them.{there}"


def _missing_sequence(connection: "Connection", run_id: str, sequence: object) -> str | None:
    if not isinstance(sequence, int):
        return None
    known = connection.execute(
        "SELECT count(*) FILTER (WHERE sequence_id = $sequence), min(sequence_id), max(sequence_id) FROM sequences "
        "WHERE run_id = $run",
        {"run": run_id, "sequence": sequence},
    ).fetchall()[0]
    if known[0]:
        return None
    span = "it has none" if known[1] is None else f"its sequences are {known[1]} to {known[2]}"
    return f"The run has no sequence {sequence}: {span}."


def _count(connection: "Connection", statement: str, run_id: str) -> Any:
    return connection.execute(statement, {"run": run_id}).fetchall()[0][0]
