"""Check what is on disk against the commit records, at three depths; reports everything it finds, raises nothing.

quick: records, chains, names, sizes, footers. full: also the checksum of every file. deep: also every value.
"""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from .. import layout
from ..errors import DamageError, LakeError, UsageError, did_you_mean
from ..layout import BLOBS, DATA, PART, PROBE, RECORD, RUN_ID
from ..reading.damage import file_checksum, visible_damage
from ..records import commits
from ..records.checksum import Checksum
from ..records.commits import BlobEntry, FileEntry, Record
from ..records.run_json import read_run_json
from ..records.tombstone import check_tombstone
from ..snapshot import RunLog
from ..storage.store import Entry, Store

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
class Verification:
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

    def as_dict(self) -> dict[str, object]:
        """The report as plain values for JSON."""
        return {"ok": self.ok, **asdict(self)}


def verify(store: Store, level: str, run: str | None = None) -> Verification:
    """Check one run or all."""
    if level not in LEVELS:
        raise UsageError(f"There is no verify level {level!r}.{did_you_mean(level, LEVELS)}")
    report = Verification(level)
    ids = [run] if run else [name for name in store.names(layout.RUNS) if RUN_ID.fullmatch(name)]
    for run_id in ids:
        try:
            _verify_run(store, run_id, report)
        except LakeError as error:  # a link or a file where a folder belongs
            report.problems.append(Problem("record", run_id, layout.run_folder(run_id), str(error)))
    if run is None:
        _verify_folders(store, ids, report)
    return report


def _verify_folders(store: Store, ids: list[str], report: Verification) -> None:
    """Folders of runs that do not exist, and links wherever files belong."""
    for folder in (DATA, layout.RUNS, layout.TRASH):
        try:
            probes = list(filter(PROBE.fullmatch, store.names(folder)))
        except DamageError as error:
            report.problems.append(Problem("foreign file", "", folder, str(error)))
            continue
        for name in probes:
            text = "a writer was stopped while it tried the folders; `lake vacuum` removes it"
            report.notes.append(Problem("leftover", "", f"{folder}/{name}", text))
    for table in data_folders(store):
        try:
            folders = store.names(f"{DATA}/{table}")
        except DamageError as error:
            report.problems.append(Problem("foreign file", "", f"{DATA}/{table}", str(error)))
            continue
        for folder in folders:
            name = folder.removeprefix("run=")
            if name != folder and name not in ids:
                text = "there are data files but no such run"
                report.problems.append(Problem("unknown run", name, f"{DATA}/{table}/{folder}", text))


def read_chains(store: Store, run_id: str) -> tuple[dict[str, list[Record]], list[Problem]]:
    """The readable records of a run by writer, in order, and what is wrong with the others."""
    folder, problems = layout.commits(run_id), []
    chains: dict[str, list[Record]] = {}
    for name in store.names(folder):
        match = RECORD.fullmatch(name)
        path = f"{folder}/{name}"
        if match is None:
            problems.append(Problem("foreign file", run_id, path, "this is no commit record"))
            continue
        try:
            record = commits.decode(commits.read(store, path, run_id), name, run_id)
        except LakeError as error:
            problems.append(Problem("record", run_id, path, str(error)))
            continue
        chains.setdefault(match["writer"], []).append(record)
    return {writer: sorted(chain, key=lambda r: r.seq) for writer, chain in chains.items()}, problems


def _verify_run(store: Store, run_id: str, report: Verification) -> None:
    if store.exists(layout.tombstone(run_id)):
        return _verify_removed(store, run_id, report)
    report.runs += 1
    chains, problems = read_chains(store, run_id)
    report.problems += problems
    try:
        run_json, anchor = read_run_json(store, run_id)
    except LakeError as error:
        if chains or problems or store.exists(layout.run_json(run_id)):
            # Without any of these it is a start that died: nothing was acknowledged.
            report.problems.append(Problem("run.json", run_id, layout.run_json(run_id), str(error)))
        return None
    texts = [text for chain in chains.values() for text in commits.chain_problems(chain, anchor)]
    ends = store.names(layout.ends(run_id))
    for text in dict.fromkeys([*texts, *commits.missing_heads(chains, ends)]):
        report.problems.append(Problem("chain", run_id, layout.commits(run_id), text))
    for name in ends:
        if not layout.END.fullmatch(name):
            problem = Problem("foreign file", run_id, f"{layout.ends(run_id)}/{name}", "this names no record")
            report.problems.append(problem)
    log = RunLog(run_id, run_json, anchor, chains, removed=False)
    for record in log.visible:
        _verify_segment(store, record, report)
    return _note_leftovers(store, log, report, readable=not problems)


def _verify_removed(store: Store, run_id: str, report: Verification) -> None:
    """Of a removed run only its tombstone is left to check: it must be one."""
    try:
        try:
            run_json, digest = read_run_json(store, run_id)
        except LakeError:
            run_json, digest = None, None
        check_tombstone(store, run_id, run_json, digest)
    except LakeError as error:
        report.problems.append(Problem("tombstone", run_id, layout.tombstone(run_id), str(error)))


def _verify_segment(store: Store, record: Record, report: Verification) -> None:
    sound = []
    for entry in record.files:
        problem = _file_problem(store, entry, report.level)
        report.rows += entry.rows
        if problem is None:
            sound.append(entry)
        _count(report, record, entry.path, entry.size, problem)
    for blob in record.blobs:
        problem = _blob_problem(store, blob, report.level)
        _count(report, record, blob.path, blob.size, problem)
    if report.level == "deep":
        from .inspection import inspect_segment

        problems, notes = inspect_segment(store, record, sound)
        report.problems += [Problem("value", record.run_id, path, text) for path, text in problems]
        report.notes += [Problem("value", record.run_id, path, text) for path, text in notes]


def _count(report: Verification, record: Record, path: str, size: int, problem: tuple[str, str] | None) -> None:
    report.files += 1
    report.bytes += size
    if problem is not None:
        report.problems.append(Problem(problem[0], record.run_id, path, problem[1]))


def _file_problem(store: Store, entry: FileEntry, level: str) -> tuple[str, str] | None:
    if why := visible_damage(store, entry.path, entry.size):
        return "file", why
    try:
        with store.open(entry.path) as file:
            rows = pq.read_metadata(file).num_rows
    except (OSError, pa.ArrowException) as error:
        return "footer", f"the footer cannot be read: {error}"
    if rows != entry.rows:
        return "rows", f"has {rows} rows instead of {entry.rows}"
    return _checksum_problem(store, entry.path, entry.checksum, level)


def _blob_problem(store: Store, blob: BlobEntry, level: str) -> tuple[str, str] | None:
    if why := visible_damage(store, blob.path, blob.size, parquet=False):
        return "file", why
    problem = _checksum_problem(store, blob.path, blob.checksum, level)
    if problem is None and level == "deep":
        from ..blobs import content_problem

        why = content_problem(store, blob)
        return ("value", why) if why else None
    return problem


def _checksum_problem(store: Store, path: str, wanted: Checksum, level: str) -> tuple[str, str] | None:
    if level != "quick" and (actual := file_checksum(store, path, wanted)) != wanted:
        return "checksum", f"has {actual} instead of {wanted.digest}"
    return None


def _note_leftovers(store: Store, log: RunLog, report: Verification, *, readable: bool) -> None:
    """Files no record names are leftovers of a killed writer, unless records are damaged."""
    named = {path for chain in log.chains.values() for record in chain for path, _ in record.paths}
    for entry in run_files(store, log.run_id):
        if entry.name in named:
            continue
        if entry.kind != "file" or not made_by_a_writer(entry.name):
            problem = Problem("foreign file", log.run_id, entry.name, "no writer made this file")
            report.problems.append(problem)
        elif readable:
            text = "no record names this file: a writer was stopped before its commit; `lake vacuum` removes it"
            report.notes.append(Problem("leftover", log.run_id, entry.name, text))
    counted = {record.name for record in log.segments}
    for chain in log.chains.values():
        for record in chain:
            if record.op == "segment" and record.name not in counted:
                text = f"segment {record.segment} was committed twice; the other record counts"
                report.notes.append(
                    Problem("twice", log.run_id, layout.record(log.run_id, record.writer, record.seq), text)
                )


def run_files(store: Store, run_id: str) -> Iterator[Entry]:
    """All files under data/ in the folders of a run."""
    for table in data_folders(store):
        yield from store.walk(f"{DATA}/{table}/run={run_id}")


def data_folders(store: Store) -> list[str]:
    """Names under data/: those of tables, and of blobs."""
    return [name for name in store.names(DATA) if not PROBE.fullmatch(name)]


def made_by_a_writer(name: str) -> re.Match[str] | None:
    """The match of the part of a path that a writer named: a data file, or the folder of a commit's blobs."""
    parts = name.split("/")
    return PART.fullmatch(parts[3] if parts[1] == BLOBS and len(parts) > 4 else parts[-1])
