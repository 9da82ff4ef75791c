"""Verdicts of people's own: a file of right and wrong per item or sequence becomes rows of `labels`.

The grades of the run itself stay as they are; what is imported again under the same name replaces what was there.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..analyses import commit_analysis
from ..derived import Analysis, analysis_row, digest, input_digest
from ..errors import NotFoundError, UsageError

if TYPE_CHECKING:
    import polars as pl

    from ..lake import Lake

KEYS = ("sequence_id", "item_id")
REASONS = ("label_reason", "reason")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
VERDICTS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "correct", "right"), True),
    **dict.fromkeys(("false", "0", "0.0", "no", "incorrect", "wrong"), False),
    **dict.fromkeys(("", "null", "none", "nan", "unknown"), None),
}


@dataclass(frozen=True)
class ImportedLabels:
    """What an import of verdicts left."""

    run_id: str
    analysis_id: str
    n_labels: int
    n_correct: int
    notices: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**vars(self), "notices": list(self.notices)}


def import_labels(lake: "Lake", file: Path, run: str = "latest", *, name: str | None = None) -> ImportedLabels:
    """Read the verdicts, match them with the run's sequences and write them in one commit; a fault changes nothing."""
    import polars as pl

    frame, content = _read(file)
    run_id = lake.resolve_run(run)
    snapshot = lake.snapshot(run_id)
    sequences = lake.scan("sequences", run_id).select("sequence_id", "item_id", "prompt_id").collect()
    labels, notices = _verdicts(frame, file)
    key = next(column for column in KEYS if column in labels.columns)
    if unknown := labels.join(sequences, on=key, how="anti").height:
        first = labels.join(sequences, on=key, how="anti")[key][0]
        raise NotFoundError(
            f"{file}: {unknown} of {labels.height} rows name a {key} that run {run_id} does not have, "
            f"the first is {first!r}. Nothing was imported."
        )
    rows = sequences.join(labels, on=key, how="inner").sort("sequence_id")
    if rows.height < sequences.height:
        notices.append(f"{sequences.height - rows.height} of {sequences.height} sequences have no verdict in the file.")
    parameters = {"name": name or file.name.split(".")[0], "by": key, "version": 1}
    inputs = digest([input_digest(snapshot, [("sequences", {})]), content])[:16]
    analysis = Analysis(run_id, "labels", parameters, inputs)
    columns = {
        "sequence_id": rows["sequence_id"].to_arrow(),
        "analysis_id": analysis.analysis_id,
        "prompt_id": rows["prompt_id"].to_arrow(),
        "correct": rows["correct"].to_arrow(),
        "label_reason": rows["label_reason"].to_arrow(),
    }
    about = analysis_row(analysis, rows.height, notices, None)
    commit_analysis(lake, analysis, {"analyses": about, "labels": columns})
    n_correct = int(rows["correct"].cast(pl.Int64).sum())
    return ImportedLabels(run_id, analysis.analysis_id, rows.height, n_correct, tuple(notices))


def _read(file: Path) -> tuple["pl.DataFrame", str]:
    """The rows of the file, and the SHA-256 of its bytes."""
    import polars as pl

    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{file}: verdicts are read from {', '.join(SUFFIXES)} files.")
    try:
        content = file.read_bytes()
        if suffix in (".csv", ".tsv"):
            separator = "\t" if suffix == ".tsv" else ","
            frame = pl.read_csv(content, separator=separator, infer_schema=False)
        elif suffix == ".parquet":
            frame = pl.read_parquet(content)
        else:
            frame = (pl.read_ndjson if suffix == ".jsonl" else pl.read_json)(content)
    except OSError as error:
        raise NotFoundError(f"{file} cannot be read: {error.strerror or error}.") from error
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"{file} cannot be read as {suffix.removeprefix('.')}: {_first_line(error)}") from error
    return frame, hashlib.sha256(content).hexdigest()


def _verdicts(frame: "pl.DataFrame", file: Path) -> tuple["pl.DataFrame", list[str]]:
    """One row per item or sequence: its key, `correct`, `label_reason`; and what a reader must know."""
    import polars as pl

    keys = [column for column in KEYS if column in frame.columns]
    if len(keys) != 1 or "correct" not in frame.columns:
        raise UsageError(
            f"{file}: the columns are {', '.join(frame.columns) or 'none'}; it needs `correct` and one of "
            f"{' or '.join(KEYS)}, and may have a `reason`."
        )
    [key] = keys
    reason = next((column for column in REASONS if column in frame.columns), None)
    labels = pl.DataFrame(
        {
            key: _keys(frame[key], file),
            "correct": pl.Series(
                [_verdict(value, row, file) for row, value in enumerate(frame["correct"])], dtype=pl.Boolean
            ),
            "label_reason": frame[reason].cast(pl.String)
            if reason
            else pl.Series([None] * frame.height, dtype=pl.String),
        }
    )
    twice = labels.filter(labels[key].is_duplicated())
    if twice.height:
        raise UsageError(f"{file}: {key} {twice[key][0]!r} stands in {twice.height} rows. Give one verdict for each.")
    rest = [column for column in frame.columns if column not in (key, "correct", reason)]
    return labels, [f"Columns that are not kept: {', '.join(rest)}."] if rest else []


def _keys(values: "pl.Series", file: Path) -> "pl.Series":
    import polars as pl

    if values.null_count():
        raise UsageError(f"{file}, row {values.is_null().arg_true()[0]}: {values.name} is missing.")
    if values.name == "item_id":
        return values.cast(pl.String)
    try:
        return values.cast(pl.Int64)
    except pl.exceptions.PolarsError as error:
        raise UsageError(f"{file}: sequence_id must be whole numbers: {_first_line(error)}") from error


def _verdict(value: object, row: int, file: Path) -> bool | None:
    text = "" if value is None else str(value).strip().lower()
    if text not in VERDICTS:
        raise UsageError(f"{file}, row {row}: `correct` is {value!r}; write true or false, or leave it empty.")
    return VERDICTS[text]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
