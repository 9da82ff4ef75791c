"""States of stored sequences, as rows: out of the lake where they were kept, else from the model, which reads again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...lake import Lake
from ...lake.reading.batches import read_vectors
from ...lake.snapshot import Snapshot
from ...lake.tables.states import ACTIVATIONS
from ..decoding.reading.check import choose_reading
from ..models.model import LoadedModel
from ..models.sites.taps import Tap
from ..stored_sequences import StoredBatch, batches_of, computing, stored_sequences

Key = tuple[str, int]
"""A site and a layer."""
BATCH_SIZE = 8


@dataclass(frozen=True)
class StateRows:
    """Tokens, sorted by sequence and position, and their states by site and layer, in the order of the tokens."""

    sequence_id: np.ndarray
    position: np.ndarray
    states: Mapping[Key, Float[Tensor, "token d_site"]]


class StateSource(Protocol):
    """Where states come from."""

    def read(self, wanted: Mapping[int, Sequence[int] | None], keys: Sequence[Key]) -> StateRows:
        """The states of the wanted positions by sequence (None: every position at hand) of the decoder."""
        ...


@dataclass(frozen=True)
class StoredStates:
    """States that the run kept."""

    snapshot: Snapshot
    dtype: torch.dtype = torch.float32

    def read(self, wanted: Mapping[int, Sequence[int] | None], keys: Sequence[Key]) -> StateRows:
        """The tokens that have all of these states."""
        found = [self._matrix(wanted, key) for key in keys]
        common = found[0][0]
        for codes, _ in found[1:]:
            common = np.intersect1d(common, codes, assume_unique=True)
        states = {
            key: torch.from_numpy(np.ascontiguousarray(matrix[np.searchsorted(codes, common)])).to(self.dtype)
            for key, (codes, matrix) in zip(keys, found, strict=True)
        }
        return StateRows(common >> 32, (common & 0xFFFFFFFF).astype(np.int32), states)

    def _matrix(self, wanted: Mapping[int, Sequence[int] | None], key: Key) -> tuple[np.ndarray, np.ndarray]:
        """Sorted codes (sequence and position in one number) and the vectors in that order."""
        site, layer = key
        span = (min(wanted), max(wanted))
        chosen = _codes(wanted)
        whole = np.array([sequence_id for sequence_id, positions in wanted.items() if positions is None], np.int64)
        codes, matrices = [], []
        for rows, vectors in read_vectors(self.snapshot, layer, site, raw=False, batch_rows=8192, sequences=span):
            ids = rows["sequence_id"].to_numpy()
            code = (ids << 32) | rows["position"].to_numpy().astype(np.int64)
            decoder = np.array(rows["stack"].to_pylist()) == "decoder"
            kept = (np.isin(ids, whole) | np.isin(code, chosen)) & decoder
            codes.append(code[kept])
            matrices.append(vectors[kept])
        joined = np.concatenate(codes) if codes else np.zeros(0, np.int64)
        order = np.argsort(joined, kind="stable")
        return joined[order], (np.concatenate(matrices) if matrices else np.zeros((0, 0), np.float32))[order]


def _codes(wanted: Mapping[int, Sequence[int] | None]) -> np.ndarray:
    pairs = [(sequence_id << 32) | position for sequence_id, some in wanted.items() for position in some or ()]
    return np.array(sorted(pairs), dtype=np.int64)


def stored_sites(snapshot: Snapshot) -> set[Key]:
    """Sites and layers of which the run kept states."""
    entries = snapshot.files(ACTIVATIONS.name)
    return {(str(entry.partition["site"]), int(entry.partition["layer"])) for entry in entries}


class ModelStates:
    """States that the model computes when it reads the stored sequences again."""

    def __init__(self, lake: Lake, run_id: str, loaded: LoadedModel) -> None:
        self.lake, self.run_id, self.loaded = lake, run_id, loaded
        self._reading = choose_reading(loaded)

    def read(self, wanted: Mapping[int, Sequence[int] | None], keys: Sequence[Key]) -> StateRows:
        """One pass over each wanted sequence."""
        codes: list[np.ndarray] = []
        states: dict[Key, list[Tensor]] = {key: [] for key in keys}
        tap = Tap(self.loaded.decoder.anatomy, {key for key in keys if key[0] != "final_norm"})
        sequences = stored_sequences(self.lake, self.run_id, list(wanted))
        with computing(), tap.attached():
            for batch in batches_of(sequences, self._reading, BATCH_SIZE):
                stored = StoredBatch(self.loaded, batch, self._reading)
                final = stored.read()
                for row, one in enumerate(batch):
                    chosen = wanted[one.sequence_id]
                    last = one.n_prompt + len(one.given)
                    positions = np.array(range(one.n_encoded, last) if chosen is None else sorted(chosen), np.int64)
                    columns = torch.from_numpy(positions + stored.column(row, 0)).to(final.device)
                    codes.append((one.sequence_id << 32) | positions)
                    for key in keys:
                        source = final if key[0] == "final_norm" else tap.states[key]
                        states[key].append(source[row, columns])
        joined = np.concatenate(codes)
        order = np.argsort(joined, kind="stable")
        moved = torch.from_numpy(order)
        rows = {key: torch.cat(parts)[moved.to(parts[0].device)] for key, parts in states.items()}
        return StateRows(joined[order] >> 32, (joined[order] & 0xFFFFFFFF).astype(np.int32), rows)
