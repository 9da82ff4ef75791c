"""Check what is on disk against the commit records, at three depths; reports everything it finds, raises nothing.

quick: records, chains, names, sizes, footers. full: also SHA-256 of every file. deep: also every value.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from . import commits
from .commits import FileEntry, Record
from .damage import file_sha256, visible_damage
from .disk import Disk
from .errors import DamageError, LakeError, UsageError, did_you_mean
from .layout import PART, RECORD, RUN_ID, Layout
from .snapshot import RunLog, missing_heads, read_run_json

LEVELS = ("quick", "full", "deep")
Level = Literal["quick", "full", "deep"]


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it was committed."""

    kind: str
    run_id: str
    path: str
    message: str


@dataclass
class Report:
    """What verify looked at and what it found; notes are harmless leftovers."""

    level: str
    runs: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {"ok": self.ok, **asdict(self)}


def verify(disk: Disk, layout: Layout, level: str, run: str | None = None) -> Report:
    """Check one run or all."""
    if level not in LEVELS:
        raise UsageError(f"There is no verify level {level!r}.{did_you_mean(level, LEVELS)}")
    report = Report(level)
    ids = [run] if run else [name for name in disk.names(layout.runs) if RUN_ID.fullmatch(name)]
    for run_id in ids:
        if not layout.tombstone(run_id).exists():
            _verify_run(disk, layout, run_id, report)
    if run is None:
        for folder in _folders(layout.data, "run="):
            if (name := folder.name.removeprefix("run=")) not in ids:
                path = folder.relative_to(layout.root).as_posix()
                report.problems.append(Problem("unknown run", name, path, "there are data files but no such run"))
    return report


def read_chains(disk: Disk, layout: Layout, run_id: str) -> tuple[dict[str, list[Record]], list[Problem]]:
    """The readable records of a run by writer, and what is wrong with the others."""
    folder, problems = layout.commits(run_id), []
    chains: dict[str, list[Record]] = {}
    for name in disk.names(folder):
        match = RECORD.fullmatch(name)
        path = f"_runs/{run_id}/commits/{name}"
        if match is None:
            problems.append(Problem("foreign file", run_id, path, "this is no commit record"))
            continue
        try:
            record = commits.decode(commits.read(disk, folder / name, run_id), name, run_id)
        except DamageError as error:
            problems.append(Problem("record", run_id, path, str(error)))
            continue
        chains.setdefault(match["writer"], []).append(record)
    return chains, problems


def _verify_run(disk: Disk, layout: Layout, run_id: str, report: Report) -> None:
    report.runs += 1
    chains, problems = read_chains(disk, layout, run_id)
    report.problems += problems
    try:
        run_json, anchor = read_run_json(disk, layout, run_id)
    except LakeError as error:
        if chains or problems:  # without records it is a start that died: nothing was acknowledged
            report.problems.append(Problem("run.json", run_id, f"_runs/{run_id}/run.json", str(error)))
        return
    texts = [text for chain in chains.values() for text in commits.chain_problems(chain, anchor)]
    for text in dict.fromkeys([*texts, *missing_heads(chains)]):
        report.problems.append(Problem("chain", run_id, f"_runs/{run_id}/commits", text))
    log = RunLog(run_id, run_json, anchor, chains, removed=False)
    for record in log.visible:
        _verify_segment(layout, record, report)
    _note_leftovers(layout, log, report, readable=not problems)


def _verify_segment(layout: Layout, record: Record, report: Report) -> None:
    sound = []
    for entry in record.files:
        report.files += 1
        report.rows += entry.rows
        report.bytes += entry.size
        problem = _file_problem(layout.root / entry.path, entry, report.level)
        if problem is None:
            sound.append(entry)
        else:
            report.problems.append(Problem(problem[0], record.run_id, entry.path, problem[1]))
    if report.level == "deep":
        from .inspection import inspect_segment

        problems, notes = inspect_segment(layout, record, sound)
        report.problems += [Problem("value", record.run_id, path, text) for path, text in problems]
        report.notes += [Problem("value", record.run_id, path, text) for path, text in notes]


def _file_problem(path: Path, entry: FileEntry, level: str) -> tuple[str, str] | None:
    if why := visible_damage(path, entry.size):
        return "file", why
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowException) as error:
        return "footer", f"the footer cannot be read: {error}"
    if rows != entry.rows:
        return "rows", f"has {rows} rows instead of {entry.rows}"
    if level != "quick" and (found := file_sha256(path)) != entry.sha256:
        return "sha256", f"has SHA-256 {found} instead of {entry.sha256}"
    return None


def _note_leftovers(layout: Layout, log: RunLog, report: Report, *, readable: bool) -> None:
    """Files no record names are leftovers of a killed writer, unless records are damaged."""
    named = {entry.path for chain in log.chains.values() for record in chain for entry in record.files}
    for path in run_files(layout, log.run_id):
        relative = path.relative_to(layout.root).as_posix()
        if relative in named:
            continue
        if not PART.fullmatch(path.name):
            report.problems.append(Problem("foreign file", log.run_id, relative, "no writer made this file"))
        elif readable:
            text = "no record names this file: a writer was stopped before its commit; `lake vacuum` removes it"
            report.notes.append(Problem("leftover", log.run_id, relative, text))
    counted = {record.name for record in log.segments}
    for chain in log.chains.values():
        for record in chain:
            if record.op == "segment" and record.name not in counted:
                text = f"segment {record.segment} was committed twice; the other record counts"
                report.notes.append(Problem("twice", log.run_id, f"_runs/{log.run_id}/commits/{record.name}", text))


def _folders(data: Path, prefix: str) -> Iterator[Path]:
    yield from sorted(data.glob(f"*/{prefix}*"))


def run_files(layout: Layout, run_id: str) -> Iterator[Path]:
    """All files under data/ in the folders of a run."""
    for folder in sorted(layout.data.glob(f"*/run={run_id}")):
        yield from sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
