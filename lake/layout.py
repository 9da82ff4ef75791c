"""Where things lie in a lake: names relative to its root, and the parts that may make one up. Touches no disk."""

import re
from collections.abc import Mapping

from .errors import NotFoundError, UsageError

MARKER = "lake.json"
"""Format version and lake id."""
DATA = "data"
"""The Parquet files and blobs, all of them complete."""
RUNS = "_runs"
"""One folder of records per run."""
LOCKS = "_locks"
"""Leases, meaningless unless held."""
TRASH = "_trash"
"""Removed files until vacuum."""
STAGING = "_staging"
"""Drafts of all writers."""
BLOBS = "blobs"
"""The folder below data/ of what is no table."""

RUN_ID = re.compile(r"[a-z][a-z0-9_-]{2,63}")
WRITER = re.compile(r"[a-z][a-z0-9_]{0,31}")  # no hyphen: it separates the parts of a file name
SAFE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
PART = re.compile(r"part-(?P<writer>[a-z][a-z0-9_]{0,31})-(?P<seq>\d{6,})-(?P<nonce>[0-9a-f]{8})(?:\.parquet)?")
"""A data file, or the folder of one commit's blobs."""
BLOB_NAME = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9_.-]{0,95}/)?"
    r"[A-Za-z][A-Za-z0-9_-]{0,63}(?:\.[A-Za-z0-9_-]{1,16})*\.(?:safetensors|npy|json)"
)
"""A blob, directly in its commit's folder or in one folder there: what belongs together stays together."""
PROBE = re.compile(r"probe-[0-9a-f]{8}\.part")
"""An empty file that is taken through the folders before a run is written; a killed writer may leave it in one."""
_FOLDERS = r"data(?:/(?!\.)[A-Za-z0-9_=.-]+)+"
DATA_PATH = re.compile(rf"{_FOLDERS}/(?!\.)[A-Za-z0-9_.-]+\.parquet")
BLOB_PATH = re.compile(rf"{_FOLDERS}/{BLOB_NAME.pattern}")
DERIVED_WRITER = "derived"
"""The one writer of a run's analyses: its records have an order, so that the last word counts."""
RECORD = re.compile(r"(?P<writer>[a-z][a-z0-9_]{0,31})-(?P<seq>\d{6,})\.json")
END = re.compile(r"(?P<writer>[a-z][a-z0-9_]{0,31})-(?P<seq>\d{6,})\.(?P<digest>[0-9a-f]{64})")


def check_name(value: str, pattern: re.Pattern[str], what: str) -> str:
    """`value`, if it may be part of a path; UsageError otherwise."""
    if not pattern.fullmatch(value):
        raise UsageError(f"{value!r} cannot be a {what}: it must match {pattern.pattern}.")
    return value


def run_folder(run_id: str) -> str:
    """Folder of one run's records."""
    return f"{RUNS}/{check_name(run_id, RUN_ID, 'run id')}"


def run_json(run_id: str) -> str:
    """Configuration and provenance of a run."""
    return f"{run_folder(run_id)}/run.json"


def commits(run_id: str) -> str:
    """Folder of a run's commit records."""
    return f"{run_folder(run_id)}/commits"


def record(run_id: str, writer: str, seq: int) -> str:
    """One commit record."""
    return f"{commits(run_id)}/{record_name(writer, seq)}"


def record_name(writer: str, seq: int) -> str:
    """File name of a commit record."""
    return f"{writer}-{seq:06d}.json"


def ends(run_id: str) -> str:
    """Folder of what names the last records of writers that finished."""
    return f"{run_folder(run_id)}/ends"


def end(run_id: str, writer: str, seq: int, digest: str) -> str:
    """A file whose name says that record `seq` of the writer exists, with this digest."""
    return f"{ends(run_id)}/{writer}-{seq:06d}.{digest}"


def tombstone(run_id: str) -> str:
    """Present when the run was removed."""
    return f"{run_folder(run_id)}/tombstone.json"


def lock(run_id: str, writer: str) -> str:
    """Lease of one writer of a run."""
    return f"{LOCKS}/{check_name(run_id, RUN_ID, 'run id')}.{check_name(writer, WRITER, 'writer id')}.lock"


def staging(run_id: str, writer: str) -> str:
    """Drafts of one writer."""
    return f"{STAGING}/{check_name(run_id, RUN_ID, 'run id')}/{check_name(writer, WRITER, 'writer id')}"


def part(table: str, run_id: str, partition: Mapping[str, int | str], name: str) -> str:
    """A data file, or the folder of a commit's blobs."""
    folders = [f"{key}={partition_value(key, value)}" for key, value in partition.items()]
    return "/".join([DATA, table, f"run={check_name(run_id, RUN_ID, 'run id')}", *folders, name])


def partition_value(key: str, value: int | str) -> str:
    """A partition value as a path part: a non-negative integer or a safe name."""
    if isinstance(value, str):
        return check_name(value, SAFE_NAME, key)
    if value < 0:
        raise UsageError(f"{key}={value} cannot be a partition: it must be 0 or more.")
    return str(value)


def no_lake(where: object, given: object, error: OSError) -> NotFoundError:
    """What to say where there is no lake, because of `error`."""
    another = "or name another with --lake or TRACELAKE_LAKE."
    if isinstance(error, NotADirectoryError):
        return NotFoundError(f"There is no lake at {where}: that is a file, or below one. Name a folder, {another}")
    return NotFoundError(f"There is no lake at {where}. `lake collect --lake {given}` makes one; {another}")
