"""Taking runs out of a lake and sweeping up: remove (to the trash, or for good) and vacuum."""

import json
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from . import commits
from .derived import replaced_entries
from .disk import Disk, Folders, explained
from .errors import LockedError
from .layout import DERIVED_WRITER, PART, RUN_ID, WRITER, Layout
from .locks import held_writers, is_held
from .verify import read_chains, run_files

GRACE = timedelta(days=1)
"""A file that no record names may be a segment in the making; younger ones are left alone."""


@dataclass(frozen=True)
class Removal:
    """What `remove` did, or would do."""

    run_id: str
    dry_run: bool
    now: bool
    files: int
    bytes: int
    trash: str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass
class Vacuumed:
    """What `vacuum` deleted, or would delete; `kept` says what it would not touch and why."""

    dry_run: bool
    files: int = 0
    bytes: int = 0
    paths: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def remove(disk: Disk, layout: Layout, run_id: str, *, dry_run: bool, now: bool) -> Removal:
    """Hide a run by its tombstone, then move its files to the trash, or delete them if `now`.

    A run that was being removed when the power failed is hidden already; vacuum takes the rest away.
    """
    if writers := held_writers(layout.locks, run_id):
        raise LockedError(f"Run {run_id} is being written by {', '.join(writers)}. Stop it first, then remove it.")
    files = list(run_files(layout, run_id))
    if now:
        files += [path for folder in sorted(layout.trash.glob(f"*-rm-{run_id}")) for path in _tree(folder)]
    size = sum(path.lstat().st_size for path in files)
    trash = None if now else layout.trash / f"{_stamp()}-rm-{run_id}"
    if not dry_run:
        with explained(f"removing run {run_id}"):
            _bury(disk, layout, run_id)
            _clear(disk, layout, files, trash)
            if now:
                _forget(disk, layout, run_id)
    place = trash.relative_to(layout.root).as_posix() if trash else None
    return Removal(run_id, dry_run, now, len(files), size, place)


def _bury(disk: Disk, layout: Layout, run_id: str) -> None:
    if layout.tombstone(run_id).exists():
        return
    body = {"run_id": run_id, "removed_at": commits.now()}
    Folders(disk, layout.root).make([layout.all_staging])
    draft = layout.all_staging / f"tombstone-{secrets.token_hex(4)}.part"
    commits.publish(disk, (json.dumps(body) + "\n").encode(), draft, layout.tombstone(run_id))


def _clear(disk: Disk, layout: Layout, files: Iterable[Path], trash: Path | None) -> None:
    """Move files to the trash under names that no glob takes for Parquet, or unlink them; then drop empty folders."""
    folders: dict[Path, None] = {}
    made = Folders(disk, layout.root)
    for path in files:
        if trash is None:
            disk.unlink(path)
        else:
            target = trash / path.relative_to(layout.data).parent / f"{path.name}.trash"
            made.make([target.parent])
            disk.rename(path, target)
            folders[target.parent] = None
        folders[path.parent] = None
    for folder in folders:
        disk.sync_folder(folder)
    for folder in folders:
        _drop_empty(disk, folder, layout.trash if layout.trash in folder.parents else layout.data)


def _drop_empty(disk: Disk, folder: Path, stop: Path) -> None:
    """Remove a folder and its ancestors below `stop` as far as they are empty."""
    while stop in folder.parents and folder.exists() and not disk.names(folder):
        disk.remove_folder(folder)
        folder = folder.parent


def _forget(disk: Disk, layout: Layout, run_id: str) -> None:
    """Delete everything of a buried run but its tombstone: run.json may hold prompts."""
    root = layout.run(run_id)
    paths = [p for p in _tree(root) if p != layout.tombstone(run_id)]
    paths += _tree(layout.all_staging / run_id)
    for path in paths:
        disk.unlink(path)
    for folder in sorted({path.parent for path in paths}, reverse=True):
        disk.sync_folder(folder)
        _drop_empty(disk, folder, layout.runs if root in [folder, *folder.parents] else layout.all_staging)


def vacuum(disk: Disk, layout: Layout, *, older_than_days: float, dry_run: bool) -> Vacuumed:
    """Delete trash older than the retention, what is left of removed runs and analyses, and leftovers of dead writers.

    A file is never garbage only because no record names it: it must be a day old and its writer's lock free, and all
    records of its run must be readable.
    """
    result = Vacuumed(dry_run)
    age = timedelta(days=older_than_days)
    garbage = [*_old_trash(layout, age), *_leftover_drafts(layout)]
    for run_id in [name for name in disk.names(layout.runs) if RUN_ID.fullmatch(name)]:
        if layout.tombstone(run_id).exists():
            garbage += run_files(layout, run_id)
            if _age(layout.tombstone(run_id)) >= age:
                garbage += [p for p in _tree(layout.run(run_id)) if p != layout.tombstone(run_id)]
        else:
            garbage += _orphans(disk, layout, run_id, result)
            garbage += _replaced(disk, layout, run_id, age)
    with explained("vacuuming the lake"):
        for path in garbage:
            result.files += 1
            result.bytes += path.lstat().st_size
            result.paths.append(path.relative_to(layout.root).as_posix())
            if not dry_run:
                disk.unlink(path)
        if not dry_run:
            for folder in sorted({path.parent for path in garbage}, reverse=True):
                _drop_empty(disk, folder, layout.root / folder.relative_to(layout.root).parts[0])
    return result


def _old_trash(layout: Layout, age: timedelta) -> Iterator[Path]:
    limit = (datetime.now(UTC) - age).strftime("%Y%m%dT%H%M%SZ")
    for folder in sorted(layout.trash.glob("*")):
        if folder.name.split("-")[0] <= limit:
            yield from _tree(folder)


def _leftover_drafts(layout: Layout) -> Iterator[Path]:
    for path in _tree(layout.all_staging):
        parts = path.relative_to(layout.all_staging).parts
        named = len(parts) == 3 and RUN_ID.fullmatch(parts[0]) and WRITER.fullmatch(parts[1])
        held = bool(named) and is_held(layout.lock(parts[0], parts[1]))
        if _age(path) >= GRACE and not held:
            yield path


def _orphans(disk: Disk, layout: Layout, run_id: str, result: Vacuumed) -> Iterator[Path]:
    """Data files that no record names and no writer can still commit."""
    held = set(held_writers(layout.locks, run_id))  # before reading records: a writer that ends meanwhile has committed
    files = list(run_files(layout, run_id))
    chains, problems = read_chains(disk, layout, run_id)
    anchor_problems = [text for chain in chains.values() for text in _gaps(chain)]
    named = {entry.path for chain in chains.values() for record in chain for entry in record.files}
    orphans = [path for path in files if path.relative_to(layout.root).as_posix() not in named]
    if orphans and (problems or anchor_problems):
        result.kept.append(f"run {run_id}: records are damaged or missing, so {len(orphans)} unnamed files stay")
        return
    for path in orphans:
        match = PART.fullmatch(path.name)
        if match and match["writer"] not in held and _age(path) >= GRACE:
            yield path
        else:
            result.kept.append(f"{path.relative_to(layout.root).as_posix()}: too young, being written, or not ours")


def _replaced(disk: Disk, layout: Layout, run_id: str, age: timedelta) -> Iterator[Path]:
    """Files of analyses that were removed or computed again, if all records of the run's analyses are readable."""
    chains, problems = read_chains(disk, layout, run_id)
    chain = chains.get(DERIVED_WRITER, [])
    if problems or _gaps(chain):
        return
    for entry, since in replaced_entries(chain):
        if datetime.now(UTC) - since >= age and (layout.root / entry.path).exists():
            yield layout.root / entry.path


def _gaps(chain: list[commits.Record]) -> list[str]:
    anchor = chain[0].previous if chain and chain[0].seq == 0 else ""
    return commits.chain_problems(chain, anchor)


def _tree(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _age(path: Path) -> timedelta:
    return timedelta(seconds=time.time() - path.lstat().st_mtime)


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
