"""Every value of a committed segment: page checksums, types, keys, order, uniqueness, vector widths, finiteness."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..records.commits import FileEntry, Record
from ..schema import TABLES
from ..storage.store import Store
from ..tables.table import Table
from ..vectors import STORED, from_binary, width
from ..writing import keys
from .invariants import broken_invariants

Finding = tuple[str, str]
"""Path of a file and what is wrong with it."""


@dataclass
class _Seen:
    """What reading one file taught."""

    entry: FileEntry
    problems: list[str] = field(default_factory=list)
    sequences: set[int] = field(default_factory=set)
    ranges: dict[str, list[int | str]] = field(default_factory=dict)
    last: keys.Key | None = None
    odd: list[tuple[int, int]] = field(default_factory=list)
    """(sequence, position) of vectors with NaN or infinity."""
    untold: set[int] = field(default_factory=set)
    """Sequences of which an import says why they have no tokens."""


def inspect_segment(store: Store, record: Record, entries: Sequence[FileEntry]) -> tuple[list[Finding], list[Finding]]:
    """Problems and notes of the given files of one segment."""
    seen = [_inspect_file(store, record, entry) for entry in entries]
    problems = [(s.entry.path, text) for s in seen for text in s.problems]
    if problems:
        return problems, []  # what follows reads the files again and would only repeat it
    problems += _disagreements(seen)
    problems += _repeated_keys(store, entries)
    flagged, summarised = _flagged(store, entries)
    notes = []
    for one in seen:
        place = (one.entry.partition.get("layer"), one.entry.partition.get("site"))
        for where in one.odd:
            text = f"the vector of sequence {where[0]}, position {where[1]} is not finite"
            if (*where, *place) in flagged:
                continue
            if one.entry.table != "activations" or (*where, *place) in summarised:
                problems.append((one.entry.path, f"{text}, and n_nan and n_inf of its summary are 0"))
            else:
                notes.append((one.entry.path, f"{text}; no summary was kept that could say so"))
    return problems, notes


def _inspect_file(store: Store, record: Record, entry: FileEntry) -> _Seen:
    seen = _Seen(entry)
    table = TABLES.get(entry.table)
    if table is None:
        seen.problems.append(f"its table {entry.table!r} is unknown to this version")
        return seen
    try:
        with pq.ParquetFile(store.open(entry.path), page_checksum_verification=True) as file:
            seen.problems += _schema_problems(table, file.schema_arrow, set(record.columns.get(entry.table, ())))
            if not seen.problems:
                for group in range(file.num_row_groups):
                    _inspect_rows(table, record, seen, file.read_row_group(group), file.schema_arrow)
    except (OSError, pa.ArrowException) as error:
        seen.problems.append(f"cannot be decoded: {error}")
        return seen
    if not seen.problems and seen.ranges != entry.key_range:
        seen.problems.append(f"its keys span {seen.ranges}, the record says {entry.key_range}")
    return seen


def _schema_problems(table: Table, schema: pa.Schema, written: set[str]) -> Iterator[str]:
    for column in table.columns:
        place = schema.get_field_index(column.name)
        if place < 0:
            if column.name in written or column.required:
                yield f"lacks the column {column.name}"
        elif column.name != table.vector:
            if schema.field(place).type != column.type:
                yield f"{column.name} is {schema.field(place).type} instead of {column.type}"
        else:
            meta = {k.decode(): v.decode() for k, v in (schema.field(place).metadata or {}).items()}
            kind = schema.field(place).type
            if meta.get("dtype") not in STORED or not meta.get("dim", "").isdigit():
                yield f"{column.name} does not say its dtype and dim"
            elif kind != pa.binary(width(meta["dtype"], int(meta["dim"]))):
                yield f"{column.name} is {kind}, not {meta['dim']} x {meta['dtype']}"


def _inspect_rows(table: Table, record: Record, seen: _Seen, rows: pa.Table, schema: pa.Schema) -> None:
    fixed: dict[str, object] = {"run_id": record.run_id, **seen.entry.partition}
    if table.vector:
        meta = schema.field(table.vector).metadata
        fixed |= {"dtype": meta[b"dtype"].decode(), "dim": int(meta[b"dim"])}
    for name, value in fixed.items():
        if (found := rows.column(name).unique().to_pylist()) != [value]:
            seen.problems.append(f"holds {name} {found} where {value!r} belongs")
    for column in table.columns:
        if column.required and column.name in rows.column_names and rows.column(column.name).null_count:
            seen.problems.append(f"{column.name} has nulls")
    if seen.problems:
        return
    key = {name: rows.column(name).combine_chunks() for name in table.key if name not in fixed}
    order = keys.order_rows(key)
    if order.permutation is not None or (seen.last is not None and keys.key_of(key, 0) < seen.last):
        seen.problems.append("its rows are not in the order of the key")
    if order.duplicate is not None or (seen.last is not None and keys.key_of(key, 0) == seen.last):
        seen.problems.append("two rows have the same key")
    seen.last = keys.key_of(key, len(rows) - 1)
    seen.ranges = keys.merge_ranges(seen.ranges, keys.key_ranges(key))
    if "sequence_id" in rows.column_names:
        seen.sequences.update(rows.column("sequence_id").unique().to_pylist())
    if table.name == "imported_metrics":
        named = zip(rows.column("sequence_id").to_pylist(), rows.column("name").to_pylist(), strict=True)
        seen.untold.update(sequence for sequence, name in named if name == "token_steps")
    seen.problems += broken_invariants(table.name, rows)
    if table.vector:
        _inspect_vectors(table, seen, rows, str(fixed["dtype"]))


def _inspect_vectors(table: Table, seen: _Seen, rows: pa.Table, dtype: str) -> None:
    assert table.vector
    stored = from_binary(rows.column(table.vector).combine_chunks(), dtype)
    if dtype == "int8":
        return
    finite = (stored & 0x7F80) != 0x7F80 if dtype == "bfloat16" else np.isfinite(stored)
    for row in np.flatnonzero(~finite.all(axis=1)):
        place = (rows.column("sequence_id")[row].as_py(), rows.column("position")[row].as_py())
        seen.odd.append(place)


def _disagreements(seen: Sequence[_Seen]) -> Iterator[Finding]:
    """Every token row needs its sequence row, and every sequence has token rows."""
    tables: dict[str, set[int]] = {}
    for one in seen:
        tables.setdefault(one.entry.table, set()).update(one.sequences)
    if "sequences" not in tables:
        return
    for one in seen:
        if extra := sorted(one.sequences - tables["sequences"]):
            yield one.entry.path, f"has rows of sequences {extra[:5]} that the segment does not have"
    untold = set().union(*(one.untold for one in seen))
    if "token_steps" in tables and (lacking := sorted(tables["sequences"] - tables["token_steps"] - untold)):
        path = next(one.entry.path for one in seen if one.entry.table == "token_steps")
        yield path, f"has no tokens of the sequences {lacking[:5]}"


def _repeated_keys(store: Store, entries: Iterable[FileEntry]) -> Iterator[Finding]:
    """Files of one table and partition that a spill split: no key may be in two of them."""
    groups: dict[tuple[object, ...], list[FileEntry]] = {}
    for entry in entries:
        groups.setdefault((entry.table, *entry.partition.values()), []).append(entry)
    for group in groups.values():
        if len(group) > 1:
            names = [name for name in TABLES[group[0].table].key if name != "run_id"]
            rows = pa.concat_tables(_columns(store, entry, names) for entry in group)
            key = {name: rows.column(name).combine_chunks() for name in names}
            if keys.order_rows(key).duplicate is not None:
                yield group[0].path, "shares a key with another file of its segment"


def _flagged(store: Store, entries: Iterable[FileEntry]) -> tuple[set[tuple], set[tuple]]:
    """(sequence, position, layer, site) whose summary counts NaN or infinity, and all that have a summary."""
    flagged: set[tuple] = set()
    summarised: set[tuple] = set()
    names = ["sequence_id", "position", "layer", "site"]
    for entry in entries:
        if entry.table == "layer_summaries":
            rows = _columns(store, entry, [*names, "n_nan", "n_inf"])
            counts = zip(rows["n_nan"].to_pylist(), rows["n_inf"].to_pylist(), strict=True)
            odd = [bool(nan or inf) for nan, inf in counts]
            places = list(zip(*(rows[name].to_pylist() for name in names), strict=True))
            summarised.update(places)
            flagged.update(place for place, hit in zip(places, odd, strict=True) if hit)
    return flagged, summarised


def _columns(store: Store, entry: FileEntry, names: list[str]) -> pa.Table:
    with pq.ParquetFile(store.open(entry.path)) as file:
        return file.read(columns=names)
