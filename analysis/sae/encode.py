"""A run's vectors as active features: `sae_features` in the order of tokens, `feature_activations` in that of features.

Both are committed piece by piece. What is interrupted goes on where it was: sequences that have features are not
encoded again, features that are written are not sorted again.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from ...lake import Lake
from ...lake.analyses import commit_analysis
from ...lake.derived import Analysis
from ...lake.reading.batches import read_vectors
from ...lake.snapshot import Snapshot
from ...lake.values import Columns
from .evaluation import check_width, place_of
from .sae import Sae

CHUNK_ROWS = 65_536
"""Tokens between two commits, about."""
FILE_ROWS = 4_000_000
"""Rows of a file in the order of features."""
BATCH_ROWS = 65_536


def encode_run(
    lake: Lake, sae: Sae, analysis: Analysis, exclude: str, should_stop: Callable[[], None],
    on_progress: Callable[[int], None],
) -> None:  # fmt: skip
    """Write the `sae_features` that the run lacks."""
    layer, site, _ = place_of(sae)
    done = _sequences_done(lake, analysis.run_id, sae.sae_id)
    waiting: list[dict[str, np.ndarray]] = []
    n_rows = 0
    for columns, n in _encoded(lake.snapshot(analysis.run_id), sae, layer, site, exclude, done):
        should_stop()
        waiting.append(columns)
        n_rows += n
        if n_rows >= CHUNK_ROWS:
            on_progress(n_rows)
            _commit(lake, analysis, sae, layer, site, waiting)
            waiting, n_rows = [], 0
    if waiting:
        on_progress(n_rows)
        _commit(lake, analysis, sae, layer, site, waiting)


def _sequences_done(lake: Lake, run_id: str, sae_id: str) -> np.ndarray:
    rows = lake.scan("sae_features", run_id).filter(pl.col("sae_id") == sae_id).select("sequence_id").unique()
    return np.sort(rows.collect()["sequence_id"].to_numpy())


def _encoded(
    snapshot: Snapshot, sae: Sae, layer: int, site: str, exclude: str, done: np.ndarray
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """Columns of active features and how many tokens they are of, whole sequences at a time."""
    for keys, vectors in _whole_sequences(snapshot, layer, site):
        check_width(sae, next(iter(snapshot.runs)), vectors.shape[1])
        ids, position = keys["sequence_id"].to_numpy(), keys["position"].to_numpy()
        kept = ~np.isin(ids, done)
        if exclude != "none":
            kept &= position > 0
        ids, position = ids[kept], position[kept]
        if not len(ids):
            continue
        code = sae.encode(torch.from_numpy(np.ascontiguousarray(vectors[kept])))
        rows = code.rows.numpy()
        yield (
            {
                "sequence_id": ids[rows],
                "position": position[rows],
                "feature": code.features.numpy().astype(np.int32),
                "activation": code.values.numpy(),
            },
            len(ids),
        )


def _whole_sequences(snapshot: Snapshot, layer: int, site: str) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """The batches of the files, a sequence that two batches share kept for the second: files do not split sequences."""
    held: tuple[pa.Table, np.ndarray] | None = None
    for keys, vectors in read_vectors(snapshot, layer, site, raw=False, batch_rows=8192):
        if held is not None:
            keys, vectors = pa.concat_tables([held[0], keys]), np.concatenate([held[1], vectors])
        ids = keys["sequence_id"].to_numpy()
        cut = int(np.flatnonzero(ids != ids[-1])[-1]) + 1 if (ids != ids[-1]).any() else 0
        held = keys.slice(cut), vectors[cut:]
        if cut:
            yield keys.slice(0, cut), vectors[:cut]
    if held is not None:
        yield held


def _commit(
    lake: Lake, analysis: Analysis, sae: Sae, layer: int, site: str, pieces: Sequence[dict[str, np.ndarray]]
) -> None:
    columns: Columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    columns |= {"sae_id": sae.sae_id, "layer": layer, "site": site}
    commit_analysis(lake, analysis, {"sae_features": columns}, replace=False, partial=True)


def sort_by_feature(lake: Lake, sae_id: str, analysis: Analysis, should_stop: Callable[[], None]) -> None:
    """Write `feature_activations`: DuckDB sorts, also what does not fit in memory; files end with a feature."""
    with lake.connect(run=analysis.run_id, locked=True) as connection:
        last = connection.sql(
            "SELECT max(feature) AS last FROM feature_activations WHERE run_id = $run AND sae_id = $sae",
            {"run": analysis.run_id, "sae": sae_id},
        )["last"][0]
        query = """
            SELECT feature, sequence_id, position, activation FROM sae_features
            WHERE run_id = $run AND sae_id = $sae AND feature > $last
            ORDER BY feature, sequence_id, position
        """
        given = {"run": analysis.run_id, "sae": sae_id, "last": -1 if last is None else last}
        waiting: list[pa.Table] = []
        n_rows = 0
        for batch in connection.batches(query, given, rows=BATCH_ROWS):
            should_stop()
            waiting.append(pa.Table.from_batches([batch]))
            n_rows += len(batch)
            if n_rows >= FILE_ROWS:
                whole = pa.concat_tables(waiting)
                features = whole["feature"].to_numpy()
                cut = int(np.searchsorted(features, features[-1]))  # the last feature may go on in the next batch
                if cut:
                    _commit_sorted(lake, sae_id, analysis, whole.slice(0, cut))
                    waiting, n_rows = [whole.slice(cut)], len(whole) - cut
        if n_rows:
            _commit_sorted(lake, sae_id, analysis, pa.concat_tables(waiting))


def _commit_sorted(lake: Lake, sae_id: str, analysis: Analysis, rows: pa.Table) -> None:
    columns: Columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    columns |= {"sae_id": sae_id, "analysis_id": analysis.analysis_id}
    commit_analysis(lake, analysis, {"feature_activations": columns}, replace=False, partial=True)
