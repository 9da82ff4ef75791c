"""The comment header of a `.sql` file: description, chart encoding, parameters. Knows nothing of DuckDB or Altair.

The header is the block of `--` lines at the top of the file.

1. Description: prose, at least one line. Its first sentence is the summary in listings.
2. Keys, one per line, once each: `-- mark: line`. From the first key on, every line is a key or a parameter.
3. Parameters: `-- param NAME TYPE = DEFAULT  what it means`, two spaces before the meaning, no spaces in the
   default. Types: TEXT, BIGINT, DOUBLE, BOOLEAN, RUN (a run id, unique prefix, tag or `latest`; the default
   `latest:TABLE` is the newest run with rows of that table), PROFILE (a row of the view `health_profiles`).
   A parameter without `= DEFAULT` must be given. `= NULL` means "not given".

Keys of a chart (all need `mark`, `x` and `y`):

    mark       line, point, bar, area, rect, tick, or path (points joined in their order, whatever their x)
    title      the chart's title; the summary if there is none
    x y color size facet detail     FIELD:TYPE, then an axis title if wanted. TYPE as in Altair: Q, O, N or T
    end        FIELD:Q, the other end of a bar along x; order FIELD:Q, in which a path joins its points
    tooltip    further fields to show: FIELD, FIELD
    band       LOW, HIGH: fields of an interval around y, then two spaces and what it is (`95 % interval`)
    cell       rect and bar: the width of a cell on axes of numbers, FIELD or NUMBER; 1 if not given
    labels     rect: CHANNEL FIELD, ...: the words (tokens) that stand along an axis of at most 60 cells
    notice     FIELD: sentences for the subtitle, where the rows are not the whole truth; null where there are none
    scale      CHANNEL WORD, ...: log, zero, reverse, diverging, LOW..HIGH, equal (x and y span the same) or free (y
               only: each panel its own)
    reference  diagonal, or x NUMBER, or y NUMBER: a line to compare with

An axis title or the title may hold `{NAME}`, the value of a parameter: `{measure}` becomes `entropy (bits)`.

Keys of a view: `-- column NAME: what it holds`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal

from ..lake.errors import ConfigError, did_you_mean

MARKS = ("line", "point", "bar", "area", "rect", "tick", "path")
CHANNELS = ("x", "y", "end", "color", "size", "facet", "detail", "order")
CHART_KEYS = ("mark", "title", *CHANNELS, "tooltip", "band", "cell", "labels", "notice", "scale", "reference")
Value = str | int | float | bool | None
"""What a parameter of a saved query can be."""
PARAMETER_TYPES = ("TEXT", "BIGINT", "DOUBLE", "BOOLEAN", "RUN", "PROFILE")
SCALE_WORDS = ("log", "zero", "reverse", "diverging", "equal", "free")
FIELD_TYPES = {"Q": "quantitative", "O": "ordinal", "N": "nominal", "T": "temporal"}

FieldType = Literal["quantitative", "ordinal", "nominal", "temporal"]

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
_KEY_LINE = re.compile(r"([a-z]+):(?:\s+(.*))?$")
_COLUMN_LINE = re.compile(rf"column ({_NAME}):\s+(.+)$")
_PARAMETER_LINE = re.compile(rf"param ({_NAME}) ([A-Z]+)(?: = (\S+))?  +(\S.*)$")
_ENCODING = re.compile(rf"({_NAME}):([A-Z])(?:\s+(\S.*))?$")
_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)$")
_REFERENCE = re.compile(r"(x|y) (-?\d+(?:\.\d+)?)$")


@dataclass(frozen=True)
class Encoding:
    """One channel of a chart: a field of the result, how to read it, and its axis title if the header gives one."""

    field: str
    type: FieldType
    title: str | None = None


@dataclass(frozen=True)
class Parameter:
    """One `$name` of a query; `default` is the text of the header, None for NULL or where one must be given."""

    name: str
    type: str
    default: str | None
    required: bool
    doc: str


@dataclass(frozen=True)
class Header:
    """What the comments of a `.sql` file say."""

    description: str
    mark: str | None = None
    title: str | None = None
    channels: dict[str, Encoding] = field(default_factory=dict)
    tooltip: tuple[str, ...] = ()
    band: tuple[str, str] | None = None
    band_words: str | None = None
    cell: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    notice: str | None = None
    scales: dict[str, tuple[str | tuple[float, float], ...]] = field(default_factory=dict)
    reference: tuple[str, float] | None = None
    parameters: tuple[Parameter, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first sentence of the description."""
        return re.split(r"(?<=[.?!])\s", self.description, maxsplit=1)[0]

    @property
    def fields(self) -> list[str]:
        """Every field that the header names, once each."""
        named = [encoding.field for encoding in self.channels.values()]
        cell = [self.cell] if self.cell is not None and not _is_number(self.cell) else []
        notice = [self.notice] if self.notice else []
        further = [*(self.band or ()), *self.tooltip, *cell, *self.labels.values(), *notice]
        return list(dict.fromkeys([*named, *further]))


@dataclass
class _Lines:
    """What has been read so far, with the line of each key for messages."""

    file: PurePath
    prose: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    where: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)

    def error(self, line: int, message: str) -> ConfigError:
        return ConfigError(f"{self.file}, line {line}: {message}")


def parse_header(text: str, file: PurePath) -> Header:
    """The header of a file's text; ConfigError naming file and line where it breaks the rules."""
    lines = _Lines(file)
    for number, comment in _comments(text):
        _read_line(lines, number, comment)
    description = " ".join(lines.prose)
    if not description:
        raise lines.error(1, "the file must begin with a `--` comment that says what it answers.")
    _check_chart(lines)
    return Header(
        description=description,
        mark=lines.keys.get("mark"),
        title=lines.keys.get("title"),
        channels={key: _encoding(lines, key) for key in CHANNELS if key in lines.keys},
        tooltip=_names(lines, "tooltip"),
        band=_band(lines),
        band_words=_band_words(lines),
        cell=_cell(lines),
        labels=_labels(lines),
        notice=(_names(lines, "notice") or (None,))[0],
        scales=_scales(lines),
        reference=_reference(lines),
        parameters=tuple(lines.parameters.values()),
        columns=lines.columns,
    )


def _comments(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("--"):
            return
        yield number, line[2:].strip()


def _read_line(lines: _Lines, number: int, comment: str) -> None:
    if comment.startswith("param "):
        _read_parameter(lines, number, comment)
    elif match := _COLUMN_LINE.match(comment):
        lines.columns[match[1]] = match[2]
    elif match := _KEY_LINE.match(comment):
        _read_key(lines, number, match[1], (match[2] or "").strip())
    elif lines.keys or lines.parameters or lines.columns:
        if comment:
            raise lines.error(number, f"expected `key: value` or `param ...` after the description, got {comment!r}.")
    elif comment:
        lines.prose.append(comment)


def _read_key(lines: _Lines, number: int, key: str, value: str) -> None:
    if key not in CHART_KEYS:
        raise lines.error(number, f"unknown key {key!r}.{did_you_mean(key, CHART_KEYS)}")
    if key in lines.keys:
        raise lines.error(number, f"{key!r} is given a second time (first on line {lines.where[key]}).")
    if not value:
        raise lines.error(number, f"{key!r} has no value.")
    lines.keys[key], lines.where[key] = value, number


def _read_parameter(lines: _Lines, number: int, comment: str) -> None:
    match = _PARAMETER_LINE.match(comment)
    if not match:
        raise lines.error(
            number,
            f"expected `param NAME TYPE = DEFAULT  what it means` (two spaces before the meaning), got {comment!r}.",
        )
    name, kind, default, doc = match.groups()
    if kind not in PARAMETER_TYPES:
        raise lines.error(number, f"unknown parameter type {kind!r}.{did_you_mean(kind, PARAMETER_TYPES)}")
    if name in lines.parameters:
        raise lines.error(number, f"parameter {name!r} is declared a second time.")
    value = None if default == "NULL" else default
    lines.parameters[name] = Parameter(name, kind, value, default is None, doc)


def _check_chart(lines: _Lines) -> None:
    keys = lines.keys
    if not keys:
        return
    missing = [key for key in ("mark", "x", "y") if key not in keys]
    if missing:
        raise lines.error(min(lines.where.values()), f"a chart needs mark, x and y; missing: {', '.join(missing)}.")
    if keys["mark"] not in MARKS:
        raise lines.error(lines.where["mark"], f"unknown mark {keys['mark']!r}.{did_you_mean(keys['mark'], MARKS)}")


def _encoding(lines: _Lines, key: str) -> Encoding:
    match = _ENCODING.match(lines.keys[key])
    if not match or match[2] not in FIELD_TYPES:
        raise lines.error(
            lines.where[key],
            f"{key} must be FIELD:TYPE with TYPE one of {', '.join(FIELD_TYPES)}, got {lines.keys[key]!r}.",
        )
    return Encoding(match[1], FIELD_TYPES[match[2]], match[3])  # type: ignore[arg-type]


def _names(lines: _Lines, key: str) -> tuple[str, ...]:
    if key not in lines.keys:
        return ()
    return _split_names(lines, key, lines.keys[key])


def _split_names(lines: _Lines, key: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not re.fullmatch(_NAME, name):
            raise lines.error(lines.where[key], f"{key} must be field names with commas between, got {name!r}.")
    return names


def _band(lines: _Lines) -> tuple[str, str] | None:
    if "band" not in lines.keys:
        return None
    names = _split_names(lines, "band", lines.keys["band"].partition("  ")[0])
    if len(names) != 2:
        raise lines.error(lines.where["band"], f"band must be two fields, LOW, HIGH; got {len(names)}.")
    return (names[0], names[1])


def _band_words(lines: _Lines) -> str | None:
    return lines.keys.get("band", "").partition("  ")[2].strip() or None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(?:\.\d+)?", text) is not None


def _cell(lines: _Lines) -> str | None:
    text = lines.keys.get("cell")
    if text is not None and not _is_number(text) and not re.fullmatch(_NAME, text):
        raise lines.error(lines.where["cell"], f"cell must be a field or a number, got {text!r}.")
    return text


def _labels(lines: _Lines) -> dict[str, str]:
    labels: dict[str, str] = {}
    for item in filter(None, lines.keys.get("labels", "").split(",")):
        channel, _, name = item.strip().partition(" ")
        if channel not in ("x", "y") or not re.fullmatch(_NAME, name):
            raise lines.error(lines.where["labels"], f"labels must be `x FIELD` or `y FIELD`, got {item.strip()!r}.")
        labels[channel] = name
    return labels


def _scales(lines: _Lines) -> dict[str, tuple[str | tuple[float, float], ...]]:
    scales: dict[str, tuple[str | tuple[float, float], ...]] = {}
    for item in filter(None, lines.keys.get("scale", "").split(",")):
        channel, _, word = item.strip().partition(" ")
        if channel not in lines.keys or channel not in CHANNELS:
            raise lines.error(lines.where["scale"], f"scale names the channel {channel!r}, which has no encoding.")
        span = _RANGE.match(word)
        if not span and word not in SCALE_WORDS:
            raise lines.error(
                lines.where["scale"], f"unknown scale {word!r}.{did_you_mean(word, [*SCALE_WORDS, 'LOW..HIGH'])}"
            )
        value = (float(span[1]), float(span[2])) if span else word
        scales[channel] = (*scales.get(channel, ()), value)
    return scales


def _reference(lines: _Lines) -> tuple[str, float] | None:
    text = lines.keys.get("reference")
    if text is None:
        return None
    match = _REFERENCE.match(text)
    if not match and text != "diagonal":
        raise lines.error(
            lines.where["reference"], f"reference must be `diagonal`, `x NUMBER` or `y NUMBER`, got {text!r}."
        )
    return (match[1], float(match[2])) if match else ("diagonal", 0.0)
