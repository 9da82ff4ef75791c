"""Where things lie in a lake: names that are safe as path parts, and the paths built from them. Touches no disk."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import DamageError, UsageError

RUN_ID = re.compile(r"[a-z][a-z0-9_-]{2,63}")
WRITER = re.compile(r"[a-z][a-z0-9_]{0,31}")  # no hyphen: it separates the parts of a file name
SAFE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
PART = re.compile(r"part-(?P<writer>[a-z][a-z0-9_]{0,31})-(?P<seq>\d{6,})-(?P<nonce>[0-9a-f]{8})\.parquet")
DATA_PATH = re.compile(r"data(?:/(?!\.)[A-Za-z0-9_=.-]+)+/(?!\.)[A-Za-z0-9_.-]+\.parquet")
DERIVED_WRITER = "derived"
"""The one writer of a run's analyses: its records have an order, so that the last word counts."""
RECORD = re.compile(r"(?P<writer>[a-z][a-z0-9_]{0,31})-(?P<seq>\d{6,})\.json")


def check_name(value: str, pattern: re.Pattern[str], what: str) -> str:
    """`value`, if it may be part of a path; UsageError otherwise."""
    if not pattern.fullmatch(value):
        raise UsageError(f"{value!r} cannot be a {what}: it must match {pattern.pattern}.")
    return value


def check_data_path(path: str, record: str) -> str:
    """A path from a commit record, if it is relative, normal and under data/; DamageError otherwise."""
    if not DATA_PATH.fullmatch(path):
        raise DamageError(f"{record} names the file {path!r}, which is not a normal relative path under data/.")
    return path


@dataclass(frozen=True)
class Layout:
    """Paths of one lake."""

    root: Path

    @property
    def marker(self) -> Path:
        """lake.json: format version and lake id."""
        return self.root / "lake.json"

    @property
    def data(self) -> Path:
        """The Parquet files, all of them complete."""
        return self.root / "data"

    @property
    def runs(self) -> Path:
        """One folder per run."""
        return self.root / "_runs"

    @property
    def locks(self) -> Path:
        """Lock files, meaningless unless held."""
        return self.root / "_locks"

    @property
    def trash(self) -> Path:
        """Removed files until vacuum."""
        return self.root / "_trash"

    @property
    def all_staging(self) -> Path:
        """Open files of all writers."""
        return self.root / "_staging"

    def run(self, run_id: str) -> Path:
        """Folder of one run's records."""
        return self.runs / check_name(run_id, RUN_ID, "run id")

    def run_json(self, run_id: str) -> Path:
        """Configuration and provenance of a run."""
        return self.run(run_id) / "run.json"

    def commits(self, run_id: str) -> Path:
        """Folder of a run's commit records."""
        return self.run(run_id) / "commits"

    def record(self, run_id: str, writer: str, seq: int) -> Path:
        """One commit record."""
        return self.commits(run_id) / f"{writer}-{seq:06d}.json"

    def tombstone(self, run_id: str) -> Path:
        """Present when the run was removed."""
        return self.run(run_id) / "tombstone.json"

    def lock(self, run_id: str, writer: str) -> Path:
        """Lock file of one writer of a run."""
        return self.locks / f"{check_name(run_id, RUN_ID, 'run id')}.{check_name(writer, WRITER, 'writer id')}.lock"

    def staging(self, run_id: str, writer: str) -> Path:
        """Open files of one writer."""
        return self.all_staging / check_name(run_id, RUN_ID, "run id") / check_name(writer, WRITER, "writer id")

    def part(self, table: str, run_id: str, partition: Mapping[str, int | str], name: str) -> str:
        """Path of a data file relative to the root, with forward slashes as records store it."""
        folders = [f"{key}={partition_value(key, value)}" for key, value in partition.items()]
        return "/".join(["data", table, f"run={check_name(run_id, RUN_ID, 'run id')}", *folders, name])


def partition_value(key: str, value: int | str) -> str:
    """A partition value as a path part: a non-negative integer or a safe name."""
    if isinstance(value, str):
        return check_name(value, SAFE_NAME, key)
    if value < 0:
        raise UsageError(f"{key}={value} cannot be a partition: it must be 0 or more.")
    return str(value)
