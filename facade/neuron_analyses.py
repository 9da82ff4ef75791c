"""Components, words and ablations of chosen neurons: statistics over stored paths, with what the model writes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ..analysis.neurons import components, sparse_words
from ..analysis.row_columns import columns_of
from ..lake import Lake
from ..lake.analyses import commit_analysis
from ..lake.derived import Analysis, analysis_row, digest, input_digest, stored_analyses
from ..lake.errors import UsageError
from ..lake.values import Json, JsonView, Row
from .neuron_effects import PATHS, Effects, LayerEffects

if TYPE_CHECKING:
    from ..collect.models.model import LoadedModel

    Load = Callable[[], LoadedModel]

Told = Callable[[int, int], None]
VERSION = 1
WORDS_AT_ONCE = 256
"""Neurons whose words are looked for together."""


@dataclass(frozen=True)
class NeuronQuestion:
    """Which neurons are asked about."""

    neurons: str = "64"
    """How many of each layer, or a file of them."""
    scores_id: str | None = None
    direction: str | None = None
    """Where the direction of the scores lies now, if it is a file that was moved."""
    top_k: int = components.TOP

    def check(self) -> None:
        """UsageError for options that cannot be."""
        if self.top_k < components.LEAST:
            raise UsageError(f"--top-k must be at least {components.LEAST}, not {self.top_k}.")


@dataclass
class NeuronAnswer:
    """What is in the lake: found there, or computed now."""

    run_id: str
    analysis_id: str
    computed: bool
    n_rows: dict[str, int]
    notices: list[str] = field(default_factory=list)

    def as_dict(self) -> Json:
        """Plain values for JSON."""
        return dict(vars(self))


def fitted_effects(lake: Lake, run: str, asked: NeuronQuestion, load: "Load", told: Told) -> Effects:
    """The chosen neurons' effects; their paths are read from the lake, or computed and stored first."""
    from ..collect.neurons.paths import find_scores, neuron_paths

    asked.check()
    once = cache(load)
    scored = find_scores(lake, run, asked.scores_id, asked.direction)
    return Effects(lake, scored, neuron_paths(lake, scored, asked.neurons, once, on_progress=told), once, asked.top_k)


def looked_up(
    lake: Lake, effects: Effects, name: str, parameters: JsonView, compute: Callable[[], "Rows"]
) -> NeuronAnswer:
    """The answer of this name over these paths, from the lake if it is there."""
    run_id, paths_id = effects.scored.run_id, effects.paths.analysis_id
    snapshot = lake.snapshot(run_id)
    given = {"paths": paths_id, "top_k": effects.top_k, "version": VERSION, **parameters}
    reads: list[tuple[str, Mapping[str, int | str]]] = [(PATHS, {"analysis_id": paths_id}), ("sequences", {})]
    analysis = Analysis(run_id, name, given, input_digest(snapshot, reads))
    stored = stored_analyses(snapshot.runs[run_id]).get(analysis.analysis_id)
    if stored is not None:
        return NeuronAnswer(run_id, analysis.analysis_id, False, stored.n_rows)
    rows = compute()
    mine = {"analysis_id": analysis.analysis_id}
    tables = {table: {**columns, **mine} for table, columns in rows.tables.items()}
    about = analysis_row(analysis, effects.sequences.height, effects.notices, None)
    calls = [{**call, "columns": {**call["columns"], **mine}} for call in rows.vectors]
    commit_analysis(lake, analysis, {"analyses": about, **tables}, calls)
    counts = {table: len(next(iter(columns.values()))) for table, columns in rows.tables.items()}
    counts |= {call["table"]: len(call["vectors"]) for call in rows.vectors}
    return NeuronAnswer(run_id, analysis.analysis_id, True, counts, effects.notices)


@dataclass(frozen=True)
class Rows:
    """Columns by table, and calls of `append_vectors`."""

    tables: Mapping[str, JsonView] = field(default_factory=dict)
    vectors: Sequence[JsonView] = ()


def neuron_pca(lake: Lake, run: str, asked: NeuronQuestion, load: "Load", told: Told) -> NeuronAnswer:
    """The first principal component of each chosen neuron's effects (`neuron_components`)."""
    effects = fitted_effects(lake, run, asked, load, told)
    return _pca(lake, effects)


def _pca(lake: Lake, effects: Effects) -> NeuronAnswer:
    return looked_up(lake, effects, "neuron-pca", {}, lambda: _component_rows(effects))


def _component_rows(effects: Effects) -> Rows:
    rows, vectors = [], []
    for layer in effects.layers():
        for place in range(len(layer.neurons)):
            row, vector = _component(effects, layer, place)
            rows.append(row)
            vectors.append(vector)
    if not rows:
        raise UsageError("None of the neurons has a later layer: there are no second-order effects.")
    call = {"table": "neuron_components", "columns": columns_of(rows), "vectors": np.stack(vectors).astype(np.float32),
            "dtype": "float32"}  # fmt: skip
    return Rows(vectors=[call])


def _component(effects: Effects, layer: LayerEffects, place: int) -> tuple[Json, np.ndarray]:
    fit, outputs, gram = layer.fits[place], layer.outputs[place], layer.gram(place)
    row: Row = {
        "layer": layer.layer, "neuron": layer.neurons[place], "paths_id": effects.paths.analysis_id, "n": fit.n,
        "top_k": fit.top_k, "smallest_norm": fit.smallest_norm, "share": fit.share, "reason": fit.reason,
    }  # fmt: skip
    test = layer.q[~effects.split.train, place] * effects.factor[~effects.split.train, None]
    row["n_test"] = len(test)
    if fit.weights is None:
        return row, np.zeros(outputs.shape[1])
    far = components.significant(test, gram, fit)
    vector = fit.weights @ outputs
    return row | {
        "n_significant_test": int(far.sum()), "share_test": components.share_along(test[far], gram, fit),
        "onto_direction": float(vector @ effects.direction),
    }, vector  # fmt: skip


def neuron_words(
    lake: Lake, run: str, asked: NeuronQuestion, load: "Load", told: Told, *, lexicon: Path | None, n_atoms: int
) -> NeuronAnswer:
    """Each component as a sparse sum of words (`neuron_words`)."""
    from ..collect.neurons import lexicon as words_of

    if n_atoms < 1:
        raise UsageError(f"--atoms must be at least 1, not {n_atoms}.")
    named = "unembedding" if lexicon is None else digest(words_of.read_lexicon(lexicon))[:16]
    effects = fitted_effects(lake, run, asked, load, told)
    fitted = _pca(lake, effects)

    def compute() -> Rows:
        loaded = effects.load()
        dictionary = words_of.unembedding(loaded) if lexicon is None else words_of.lexicon(loaded, lexicon)
        frame, vectors = _stored_components(lake, fitted)
        atoms = sparse_words.unit_atoms(dictionary.vectors)
        rows = []
        for start in range(0, len(vectors), WORDS_AT_ONCE):
            part = slice(start, start + WORDS_AT_ONCE)
            found = sparse_words.pursue(vectors[part], atoms, n_atoms)
            for about, word, coefficient, explained in zip(
                frame[part].iter_rows(named=True), found.word, found.coefficient, found.explained, strict=True
            ):
                rows += [
                    about | {
                        "place": place, "components_id": fitted.analysis_id, "word": dictionary.words[one],
                        "token_id": None if dictionary.token_ids is None else int(dictionary.token_ids[one]),
                        "coefficient": float(coefficient[place]), "explained": float(explained[place]),
                    }
                    for place, one in enumerate(word.tolist()) if one >= 0
                ]  # fmt: skip
        return Rows({"neuron_words": columns_of(rows)})

    return looked_up(lake, effects, "neuron-words", {"dictionary": named, "atoms": n_atoms}, compute)


def _stored_components(lake: Lake, fitted: NeuronAnswer) -> tuple[pl.DataFrame, np.ndarray]:
    """Layers and neurons that have a component, and the components."""
    query = (
        "select layer, neuron, vector from neuron_components where run_id = $1 and analysis_id = $2 and reason is null "
        "order by layer, neuron"
    )
    with lake.connect(run=fitted.run_id) as connection:
        frame = connection.sql(query, [fitted.run_id, fitted.analysis_id])
    if not frame.height:
        raise UsageError("None of the chosen neurons has a component: `lake sql` on neuron_components says why.")
    return frame.select("layer", "neuron"), np.array(frame["vector"].to_list(), np.float32)
