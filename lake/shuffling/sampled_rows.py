"""Which rows of stored vectors are trained on, row group by row group, and their partners at another site."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import ConfigError, DamageError, NotFoundError, UsageError
from ..layout import PART
from ..reading.batches import vector_files
from ..reading.checked_files import CheckedFiles, CommittedFile, committed_files
from ..snapshot import Snapshot
from .row_groups import VectorFile, VectorReader

EXCLUSIONS = ("first", "special", "none")
Site = tuple[int, str]
"""Layer and site."""
_POSITIONS = 1 << 24


@dataclass(frozen=True)
class Group:
    """One row group: how many of its rows are kept (`mask`: which, as bits), and where their partners are."""

    file: VectorFile
    number: int
    rows: int
    kept: int
    mask: np.ndarray | None
    partner: "Partners | None"

    def vectors(self, reader: VectorReader) -> np.ndarray:
        """The kept rows."""
        stored = reader.vectors(self.file, self.number)
        return stored if self.mask is None else stored[self._places]

    def partners(self, reader: VectorReader) -> np.ndarray:
        """The rows of the same tokens at the other site."""
        if self.partner is None:
            raise UsageError("This sampler reads one site: give `to=(layer, site)` for aligned rows of two.")
        rows = self.partner.rows
        return self.partner.read(reader, rows if self.mask is None else rows[self._places])

    def not_finite(self, reader: VectorReader, row: int) -> str:
        """What is said of the kept row `row` that holds NaN or infinity, here or at the other site."""
        place = sum(self.file.group_rows[: self.number]) + int(self._places[row])
        keys = reader.keys(self.file).slice(place, 1).to_pylist()[0]
        where = self.file.file.entry.partition
        return (
            f"The vectors of run {self.file.file.run_id}, sequence {keys['sequence_id']}, position {keys['position']} "
            f"(layer {where['layer']}, site {where['site']}, or its partner) hold NaN or infinity: nothing can be "
            "trained on them. `lake query nan_report` shows where they begin; leave the run out, or collect it again "
            "with another --dtype."
        )

    @property
    def _places(self) -> np.ndarray:
        if self.mask is None:
            return np.arange(self.rows)
        return np.flatnonzero(np.unpackbits(self.mask, count=self.rows))


@dataclass(frozen=True)
class Partners:
    """Where the tokens of one row group are at the other site: row numbers within the same commit."""

    files: tuple[VectorFile, ...]
    rows: np.ndarray

    def read(self, reader: VectorReader, rows: np.ndarray) -> np.ndarray:
        """These rows, from the row groups that hold one of them."""
        pieces, places, taken = [], np.empty(len(rows), np.int64), 0
        for file in self.files:
            first = file.first_row
            for number, n in enumerate(file.group_rows):
                inside = (rows >= first) & (rows < first + n)
                if inside.any():
                    pieces.append(reader.vectors(file, number))
                    places[inside] = rows[inside] - first + taken
                    taken += n
                first += n
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        same = len(places) == len(whole) and np.array_equal(places, np.arange(len(whole)))
        return whole if same else whole[places]


@dataclass(frozen=True)
class SiteGroups:
    """The row groups of one layer and site of one run, all of one format."""

    run_id: str
    layer: int
    site: str
    width: int
    dtype: str
    groups: list[Group]


@dataclass(frozen=True)
class RowChoice:
    """Which tokens are left out, and of which split the sequences must be."""

    exclude: str
    split: str | None

    def nothing_left(self, snapshots: Sequence[Snapshot]) -> str:
        """The sentence for runs of which no row is chosen."""
        if self.split is None:
            return f"No vector is left after leaving out tokens (exclude {self.exclude!r})."
        splits = sorted({str(name) for snapshot in snapshots for name in _Sequences.read(snapshot).splits})
        return f"No sequence is of the split {self.split!r}. Splits of these runs: {', '.join(splits) or 'none'}."


@dataclass(frozen=True)
class _Sequences:
    """What the choice needs to know of a run's sequences, sorted by id."""

    ids: np.ndarray
    split: np.ndarray
    start: np.ndarray

    @classmethod
    def read(cls, snapshot: Snapshot) -> "_Sequences":
        """Ids, splits and the positions of decoder start tokens."""
        table = _columns(snapshot, "sequences", ["sequence_id", "split", "n_prompt_tokens"])
        ids = table["sequence_id"].to_numpy().astype(np.int64)
        order = np.argsort(ids, kind="stable")
        prompts = pc.fill_null(table["n_prompt_tokens"], 0).to_numpy()
        split = np.array(table["split"].to_pylist(), dtype=object)
        return cls(ids[order], split[order], prompts[order].astype(np.int64) - 1)

    @property
    def splits(self) -> set[Any]:
        """The splits that there are."""
        return set(self.split.tolist()) - {None}

    def of(self, values: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """`values` of the sequences `ids`; DamageError if one has no row."""
        places = np.minimum(np.searchsorted(self.ids, ids), max(0, len(self.ids) - 1))
        if len(self.ids) == 0 or not np.array_equal(self.ids[places], ids):
            raise DamageError("Vectors belong to sequences that have no row in `sequences`. Run `lake verify`.")
        return values[places]


class _Kept:
    """Says of keys which are kept, for one run."""

    def __init__(self, snapshot: Snapshot, choice: RowChoice) -> None:
        self._snapshot, self._choice = snapshot, choice
        (self._run_id,) = snapshot.runs
        self._model = snapshot.runs[self._run_id].run_json.get("model") or {}

    @cached_property
    def _sequences(self) -> _Sequences:
        return _Sequences.read(self._snapshot)

    def mask(self, keys: pa.Table) -> np.ndarray | None:
        """True where a row is kept; None if all are, whatever their keys."""
        choice, ids = self._choice, keys["sequence_id"].to_numpy()
        if choice.exclude == "none" and choice.split is None:
            return None
        kept = np.ones(len(ids), bool)
        if choice.split is not None:
            kept &= self._sequences.of(self._sequences.split, ids) == choice.split
        if choice.exclude != "none":
            kept &= ~self._begins(keys, ids)
        if choice.exclude == "special":
            kept &= ~np.isin(_token_keys(ids, keys["position"].to_numpy()), self._special)
        return kept

    def _begins(self, keys: pa.Table, ids: np.ndarray) -> np.ndarray:
        """The first token that each stack reads: everybody attends to it, whatever it says."""
        positions = keys["position"].to_numpy()
        first = positions == 0
        if self._model.get("is_encoder_decoder"):
            decoder = pc.call_function("equal", [keys["stack"], pa.scalar("decoder")]).to_numpy(zero_copy_only=False)
            first |= decoder & (positions == self._sequences.of(self._sequences.start, ids))
        return first

    @cached_property
    def _special(self) -> np.ndarray:
        """Keys of the tokens that the tokenizer calls special."""
        special = self._model.get("special_ids")
        if special is None:
            raise ConfigError(
                f"Run {self._run_id} does not say which token ids are special (it was collected before that was "
                "noted). Use exclude `first`, or collect it again."
            )
        table = _columns(self._snapshot, "token_steps", ["sequence_id", "position", "token_id"])
        chosen = np.isin(table["token_id"].to_numpy(), np.array(special, np.int64))
        return _token_keys(table["sequence_id"].to_numpy()[chosen], table["position"].to_numpy()[chosen])


def aligned_groups(
    reader: VectorReader, snapshot: Snapshot, at: Site, to: Site | None, choice: RowChoice
) -> tuple[SiteGroups, SiteGroups | None]:
    """The row groups of one run at a site, with partners at another; NotFoundError for a site that is not stored."""
    kept = _Kept(snapshot, choice)
    own, other = _commits(reader, snapshot, at), None if to is None else _commits(reader, snapshot, to)
    groups: list[Group] = []
    for name, files in own.items():
        keys = [reader.keys(file) for file in files]
        partners = None if other is None else _partner_rows(reader, files, keys, other.get(name, []), at, to)
        for file, table in zip(files, keys, strict=True):
            groups += _groups_of(file, kept.mask(table), partners, tuple(other[name]) if other else ())
    return _of_one_format(own, groups), None if other is None else _of_one_format(other, [])


def _groups_of(
    file: VectorFile, mask: np.ndarray | None, partners: np.ndarray | None, others: tuple[VectorFile, ...]
) -> Iterator[Group]:
    first = 0
    for number, rows in enumerate(file.group_rows):
        own = None if mask is None else mask[first : first + rows]
        kept = rows if own is None else int(own.sum())
        bits = None if own is None or kept == rows else np.packbits(own)
        begin = file.first_row + first
        partner = None if partners is None else Partners(others, partners[begin : begin + rows])
        yield Group(file, number, rows, kept, bits, partner)
        first += rows


def _commits(reader: VectorReader, snapshot: Snapshot, at: Site) -> dict[str, list[VectorFile]]:
    """The files of a site by the commit that made them."""
    wanted = {entry.path for entry in vector_files(snapshot, *at)}
    commits: dict[str, list[VectorFile]] = {}
    for file in committed_files(snapshot, "activations"):
        if file.entry.path in wanted:
            match = PART.fullmatch(file.entry.path.rpartition("/")[2])
            before = commits.setdefault(f"{match['writer']}-{match['seq']}" if match else file.entry.path, [])
            before.append(reader.open(file, sum(other.footer.num_rows for other in before)))
    return commits


def _partner_rows(
    reader: VectorReader, files: list[VectorFile], keys: list[pa.Table], others: list[VectorFile], at: Site, to: Any
) -> np.ndarray:
    """For each row of a commit the row of the same token at the other site; ConfigError if the tokens differ."""
    mine = _in_order(keys)
    theirs = _in_order([reader.keys(file) for file in others]) if others else np.empty(0, np.int64)
    order, back = np.argsort(theirs, kind="stable"), np.argsort(mine, kind="stable")
    if len(mine) != len(theirs) or not np.array_equal(mine[back], theirs[order]):
        raise ConfigError(
            f"Run {files[0].file.run_id} keeps {at[1]}@{at[0]} and {to[1]}@{to[0]} of different tokens "
            f"({len(mine):,} and {len(theirs):,} rows in one commit): they make no pairs. Collect both with one "
            "--keep scope."
        )
    rows = np.empty(len(mine), np.int64)
    rows[back] = order
    return rows


def _in_order(tables: list[pa.Table]) -> np.ndarray:
    table = pa.concat_tables(tables)
    return _token_keys(table["sequence_id"].to_numpy(), table["position"].to_numpy())


def _token_keys(ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number per token; UsageError where the numbers do not fit."""
    if len(ids) and (int(positions.max()) >= _POSITIONS or int(ids.max()) >= 1 << 39 or int(ids.min()) < 0):
        raise UsageError("Sequence ids above 2^39 or sequences of more than 2^24 tokens are not sampled.")
    return ids.astype(np.int64) * _POSITIONS + positions


def _of_one_format(commits: dict[str, list[VectorFile]], groups: list[Group]) -> SiteGroups:
    files = [file for files in commits.values() for file in files]
    formats = {(file.dim, file.dtype) for file in files}
    where = files[0].file.entry.partition
    if len(formats) > 1:
        named = ", ".join(f"{dim} x {dtype}" for dim, dtype in sorted(formats))
        raise ConfigError(
            f"Run {files[0].file.run_id} has vectors of several formats at layer {where['layer']}, site "
            f"{where['site']}: {named}. They do not make one matrix."
        )
    return SiteGroups(
        files[0].file.run_id, int(where["layer"]), str(where["site"]), files[0].dim, files[0].dtype, groups
    )


def _columns(snapshot: Snapshot, table: str, names: list[str]) -> pa.Table:
    """Columns of a scalar table's committed files, checked."""
    checked, pieces = CheckedFiles(snapshot.store), []
    for file in committed_files(snapshot, table):
        checked.check([file])
        pieces.append(_read_columns(snapshot, file, names))
    if not pieces:
        raise NotFoundError(f"Nothing of the table {table} is committed: the choice of rows needs it.")
    return pa.concat_tables(pieces)


def _read_columns(snapshot: Snapshot, file: CommittedFile, names: list[str]) -> pa.Table:
    path = file.entry.path
    try:
        with pq.ParquetFile(snapshot.store.open(path), page_checksum_verification=True) as opened:
            there = opened.schema_arrow.names
            read = opened.read([name for name in names if name in there])
    except (OSError, pa.ArrowException) as error:
        raise DamageError(f"{path} cannot be read: {error}. Run `lake verify` to see what is hit.") from error
    for name in names:  # a column that the writer was not given
        if name not in there:
            kind = pa.string() if name == "split" else pa.int64()
            read = read.append_column(name, pa.nulls(len(read), kind))
    return read.select(names)
