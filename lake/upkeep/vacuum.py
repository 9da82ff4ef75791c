"""Sweeping up: old trash, what is left of removed runs and analyses, and the leftovers of dead writers.

A file is never garbage only because no record names it: it must be a day old, the lease of its writer is held while it
is looked at and deleted, and all records of its run must be readable.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta

from .. import layout
from ..derived import replaced_entries
from ..errors import DamageError
from ..layout import DATA, DERIVED_WRITER, PROBE, RUN_ID, RUNS, STAGING, TRASH, WRITER
from ..records import commits
from ..records.tombstone import check_tombstone
from ..storage.store import Entry, Store, explained, only_files
from .removal import forget
from .verify import made_by_a_writer, read_chains, run_files

GRACE = timedelta(days=1)
"""A file that no record names may be a segment in the making; younger ones are left alone."""


@dataclass
class Vacuumed:
    """What `vacuum` deleted, or would delete; `kept` says what it would not touch and why."""

    dry_run: bool
    files: int = 0
    bytes: int = 0
    paths: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def vacuum(store: Store, *, older_than_days: float, dry_run: bool) -> Vacuumed:
    """Delete what is surely garbage and was removed longer ago than the retention."""
    sweep = _Sweep(store, timedelta(days=older_than_days), Vacuumed(dry_run))
    with explained("vacuuming the lake"):
        sweep.trash()
        sweep.staging()
        sweep.probes()
        for run_id in store.names(RUNS):
            if RUN_ID.fullmatch(run_id):
                sweep.run(run_id)
    return sweep.result


@dataclass
class _Sweep:
    store: Store
    age: timedelta
    result: Vacuumed

    def trash(self) -> None:
        """What `rm` moved here longer ago than the retention."""
        limit = (datetime.now(UTC) - self.age).strftime("%Y%m%dT%H%M%SZ")
        for folder in self.store.names(TRASH):
            if folder.split("-")[0] <= limit:
                self.delete(self.store.walk(f"{TRASH}/{folder}"))

    def staging(self) -> None:
        """Drafts that are a day old and whose writer is dead."""
        for first in self.store.names(STAGING):
            if not RUN_ID.fullmatch(first) or self.store.entry(f"{STAGING}/{first}") is None:
                self.delete(entry for entry in self._drafts(first) if _age(entry) >= GRACE)
                continue
            for writer in self.store.names(f"{STAGING}/{first}"):
                with self.lease(first, writer) as free:
                    drafts = self.store.walk(f"{STAGING}/{first}/{writer}") if free else []
                    self.delete(entry for entry in drafts if _age(entry) >= GRACE)

    def _drafts(self, name: str) -> list[Entry]:
        entry = self.store.entry(f"{STAGING}/{name}")
        return self.store.walk(f"{STAGING}/{name}") if entry is None or entry.kind == "other" else [entry]

    def probes(self) -> None:
        """What a writer tried the folders with, a day old."""
        for folder in (DATA, RUNS, TRASH):
            names = filter(PROBE.fullmatch, self.store.names(folder))
            entries = [entry for name in names if (entry := self.store.entry(f"{folder}/{name}")) is not None]
            self.delete(entry for entry in entries if _age(entry) >= GRACE)

    def run(self, run_id: str) -> None:
        """One run: all of it if it is removed, else what was left behind and what was replaced."""
        try:
            if self.store.exists(layout.tombstone(run_id)):
                check_tombstone(self.store, run_id, None, None)
                self.removed(run_id)
            else:
                self.orphans(run_id)
                self.replaced(run_id)
        except DamageError as error:
            self.result.kept.append(f"run {run_id}: {error}")

    def removed(self, run_id: str) -> None:
        """The rest of a run whose removal was stopped, and its records when the retention is over."""
        self.delete(run_files(self.store, run_id))
        tombstone = layout.tombstone(run_id)
        entry = self.store.entry(tombstone)
        if entry is not None and _age(entry) >= self.age:
            rest = [one for one in only_files(self.store.walk(layout.run_folder(run_id))) if one.name != tombstone]
            self.count(rest)
            if not self.result.dry_run:
                forget(self.store, run_id, rest)

    def orphans(self, run_id: str) -> None:
        """Data files that no record names and no writer can still commit."""
        by_writer: dict[str, list[Entry]] = {}
        for entry in only_files(run_files(self.store, run_id)):
            match = made_by_a_writer(entry.name)
            by_writer.setdefault(match["writer"] if match else "", []).append(entry)
        for writer, entries in by_writer.items():
            with self.lease(run_id, writer) as free:  # before reading records: a writer that ended has committed
                self._orphans_of(run_id, entries, free=free and bool(writer))

    def _orphans_of(self, run_id: str, entries: list[Entry], *, free: bool) -> None:
        chains, problems = read_chains(self.store, run_id)
        gaps = [text for chain in chains.values() for text in _gaps(chain)]
        named = {path for chain in chains.values() for record in chain for path, _ in record.paths}
        orphans = [entry for entry in entries if entry.name not in named]
        if orphans and (problems or gaps):
            text = f"run {run_id}: records are damaged or missing, so {len(orphans)} unnamed files stay"
            self.result.kept.append(text)
            return
        surely = [entry for entry in orphans if free and _age(entry) >= GRACE]
        self.delete(surely)
        self.result.kept += [
            f"{entry.name}: too young, being written, or not ours" for entry in orphans if entry not in surely
        ]

    def replaced(self, run_id: str) -> None:
        """Files of analyses that were removed or computed again, if all records of the run's analyses are readable."""
        chains, problems = read_chains(self.store, run_id)
        chain = chains.get(DERIVED_WRITER, [])
        if problems or _gaps(chain):
            return
        old = [path for path, since in replaced_entries(chain) if datetime.now(UTC) - since >= self.age]
        self.delete(entry for path in old if (entry := self.store.entry(path)) is not None)

    @contextmanager
    def lease(self, run_id: str, writer: str) -> Iterator[bool]:
        """The lease of a writer, so that it cannot start meanwhile; False if it is at work or there is none."""
        lease = None
        if WRITER.fullmatch(writer) and self.result.dry_run:
            yield not self.store.held(layout.lock(run_id, writer))
            return
        if WRITER.fullmatch(writer):
            lease = self.store.lease(layout.lock(run_id, writer), patience_s=0)
        try:
            yield lease is not None
        finally:
            if lease is not None:
                lease.release()

    def delete(self, entries: Iterable[Entry]) -> None:
        """Delete files, or only count them."""
        files = list(only_files(entries))
        self.count(files)
        if not self.result.dry_run:
            self.store.remove(entry.name for entry in files)

    def count(self, entries: Iterable[Entry]) -> None:
        """Note what is deleted."""
        for entry in entries:
            self.result.files += 1
            self.result.bytes += entry.size
            self.result.paths.append(entry.name)


def _gaps(chain: list[commits.Record]) -> list[str]:
    anchor = chain[0].previous if chain and chain[0].seq == 0 else ""
    return commits.chain_problems(chain, anchor)


def _age(entry: Entry) -> timedelta:
    return timedelta(seconds=time.time() - entry.modified)
