"""The records of prompt files, format by format, each with its place for messages; what does not fit is refused."""

import csv
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from ...lake.errors import DamageError, UsageError
from .fields import KNOWN_FIELDS, TEXT_FIELDS

if TYPE_CHECKING:
    import pyarrow as pa

    from .prompt_files import PromptBytes

Place = str
LONGEST_FIELD = 2**31 - 1
"""Characters of a CSV field; the csv module's own limit is 131,072."""
DELIMITERS = (",", ";", "\t", "|")


def text_lines(source: "PromptBytes") -> Iterator[tuple[Place, object]]:
    """One prompt per line that is not blank."""
    with source.text() as stream:
        for number, line in enumerate(_lines(stream, source.name), 1):
            if line.strip():
                yield f"{source.name}, line {number}", line.rstrip("\n")


def whole_text(source: "PromptBytes") -> Iterator[tuple[Place, object]]:
    """The whole text as one prompt."""
    with source.text() as stream:
        text = "".join(_lines(stream, source.name))
    if text.strip():
        yield source.name, text


def json_lines(source: "PromptBytes") -> Iterator[tuple[Place, object]]:
    """One JSON object, or text, per line."""
    with source.text() as stream:
        for number, line in enumerate(_lines(stream, source.name), 1):
            if line.strip():
                place = f"{source.name}, line {number}"
                yield place, _parsed(line, place)


def json_rows(source: "PromptBytes") -> Iterator[tuple[Place, object]]:
    """A list of objects or texts, one object, or JSON lines under the name of JSON."""
    with source.text() as stream:
        text = "".join(_lines(stream, source.name))
    if not text.strip():
        return
    try:
        value = json.loads(text)
    except ValueError as error:
        if "Extra data" not in str(error):
            raise UsageError(f"{source.name} is not JSON: {error}.") from error
        yield from json_lines(source)
        return
    except RecursionError as error:
        raise UsageError(f"{source.name} is nested too deeply to be read.") from error
    if isinstance(value, list):
        yield from ((f"{source.name}, entry {i}", row) for i, row in enumerate(value))
    else:
        yield source.name, value


def begins_with_object(source: "PromptBytes") -> bool:
    """Whether the first line that is not blank is a JSON object."""
    with source.text() as stream:
        line = next((line for line in stream if line.strip()), "")
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def csv_rows(source: "PromptBytes", *, tabs: bool, prompts: bool = True) -> Iterator[tuple[Place, object]]:
    """One object per record after the header; records that do not fit it are refused with their line."""
    csv.field_size_limit(LONGEST_FIELD)
    delimiter = "\t" if tabs else _delimiter(source)
    with source.text(newline="") as stream:
        reader = csv.reader(_lines(stream, source.name), delimiter=delimiter, strict=True)
        records = _records(reader, source.name)
        place, header = next(records, ("", []))
        if not header:
            return
        _check_header(header, place, prompts)
        for place, record in records:
            if len(record) != len(header):
                raise UsageError(
                    f"{place} has {len(record)} fields, but the header has {len(header)} ({', '.join(header)}). "
                    f"Quote texts that contain {delimiter!r}."
                )
            yield place, {name: value for name, value in zip(header, record, strict=True) if value != ""}


def parquet_rows(source: "PromptBytes") -> Iterator[tuple[Place, object]]:
    """One object per row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(pa.BufferReader(source.content) if source.path is None else source.path) as file:
            row = 0
            for batch in file.iter_batches(batch_size=1024):
                for value in _with_text_times(batch).to_pylist():
                    yield f"{source.name}, row {row}", value
                    row += 1
    except (OSError, pa.ArrowException) as error:
        raise DamageError(f"{source.name} cannot be read as Parquet: {error}") from error


def _with_text_times(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    """The batch with times in nanoseconds, which Python's own cannot hold, as text."""
    import pyarrow as pa

    fields = [pa.field(field.name, _text_for_nanoseconds(field.type)) for field in batch.schema]
    return batch.cast(pa.schema(fields))


def _text_for_nanoseconds(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, _text_for_nanoseconds(part.type)) for part in kind])
    if pa.types.is_list(kind):
        return pa.list_(_text_for_nanoseconds(kind.value_type))
    return kind


def _lines(stream: TextIO, name: str) -> Iterator[str]:
    """The lines of a text; UsageError for a NUL, which texts do not hold and UTF-16 without its mark does."""
    for number, line in enumerate(stream, 1):
        if "\0" in line:
            raise UsageError(
                f"{name}, line {number} holds the character NUL: it is no text, or UTF-16 without a byte-order mark. "
                "Save it as UTF-8."
            )
        yield line


def _parsed(line: str, place: Place) -> object:
    try:
        return json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place} is not JSON: {error}.") from error
    except RecursionError as error:
        raise UsageError(f"{place} is nested too deeply to be read.") from error


def _records(reader: Any, name: str) -> Iterator[tuple[Place, list[str]]]:
    """Records that are not blank, each with the line where it begins."""
    while True:
        place = f"{name}, line {reader.line_num + 1}"
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = "a quote that opens here is not closed" if "end of data" in str(error) else str(error)
            raise UsageError(f"{place}: {what}. Quotes inside a quoted field are doubled.") from error
        if record:
            yield place, record


def _delimiter(source: "PromptBytes") -> str:
    """The delimiter under which the header names a known field, and the most columns."""
    headers: dict[str, list[str]] = {}
    for delimiter in DELIMITERS:
        with source.text(newline="") as stream:
            reader: Iterable[list[str]] = csv.reader(stream, delimiter=delimiter)
            headers[delimiter] = next((record for record in reader if record), [])
    known = [mark for mark, header in headers.items() if {name.strip() for name in header} & set(KNOWN_FIELDS)]
    return max(known, key=lambda mark: len(headers[mark])) if known else ","


def _check_header(header: list[str], place: Place, prompts: bool) -> None:
    for name in header:
        if name != name.strip() or not name:
            raise UsageError(
                f"{place}: the column name {name!r} is empty or has a space at an end. Names stand between the "
                "delimiters without spaces."
            )
        if header.count(name) > 1:
            raise UsageError(f"{place}: the column {name!r} is there twice.")
    if prompts and not {*TEXT_FIELDS, "messages"} & set(header):
        raise UsageError(
            f"{place} is the header, and none of its columns ({', '.join(header)[:200]}) is `prompt`. "
            f"A prompt may also be called {', '.join(TEXT_FIELDS[1:])}, or be `messages`."
        )
