"""One writer of one run: its lock, its chain of commit records, and the segments it opens."""

from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from . import commits
from .commits import Record
from .disk import Disk, Folders, explained
from .errors import LakeError, NotFoundError, UsageError
from .layout import Layout
from .locks import WriterLock
from .segments import SegmentWriter
from .snapshot import RunLog, read_run

BUFFER_BYTES = 256 << 20


@cache
def tool_version() -> str:
    """Version of the installed tracelake (read from its metadata: the facade above must not be imported here)."""
    return version("tracelake")


class RunWriter:
    """One writer of one run. Holds the writer's lock from start to `finish` or `close`."""

    def __init__(self, disk: Disk, layout: Layout, run_id: str, writer: str, *, lock: WriterLock) -> None:
        self.run_id, self.writer = run_id, writer
        self._disk, self._layout, self._lock = disk, layout, lock
        self._folders = Folders(disk, layout.root)
        self._broken = False
        self._open: SegmentWriter | None = None
        self.closed = False
        self.staging = layout.staging(run_id, writer)
        with explained(f"opening run {run_id} for writing"):
            self._folders.make([layout.commits(run_id), self.staging])
            for name in disk.names(self.staging):
                disk.unlink(self.staging / name)
            # A record that a killed writer linked but did not sync must be durable before it counts as done.
            disk.sync_folder(layout.commits(run_id))
        self._log: RunLog = read_run(disk, layout, run_id)
        self._chain = list(self._log.chains.get(writer, []))

    @property
    def run_json(self) -> dict[str, Any]:
        """Configuration and provenance of the run."""
        return self._log.run_json

    @property
    def committed(self) -> frozenset[int]:
        """Indexes of the segments committed so far, by any writer known when this one started, and by this one."""
        own = {r.segment for r in self._chain if r.op == "segment" and r.segment is not None}
        return self._log.committed | own

    @property
    def counters(self) -> dict[str, int]:
        """Counters summed over all commits."""
        return self._current().counters

    @property
    def bytes_committed(self) -> int:
        """Bytes of all committed files of the run."""
        return sum(entry.size for entry in self._current().files)

    @property
    def finished(self) -> bool:
        """Whether the run is complete: nothing is left to do."""
        return self._current().outcome == "complete"

    def segment(self, index: int, items: tuple[int, int], *, buffer_bytes: int = BUFFER_BYTES) -> "SegmentWriter":
        """The writer of one segment, covering the half-open range `items`; use it as a context manager."""
        self._check_open()
        if index in self.committed:
            raise UsageError(f"Segment {index} of run {self.run_id} is committed already.")
        if self._open is not None:
            raise UsageError(f"{self._open.what.capitalize()} of run {self.run_id} is still open.")
        record = {"op": "segment", "segment": index, "items": list(items)}
        self._open = SegmentWriter(self, f"segment {index}", record, buffer_bytes=buffer_bytes)
        return self._open

    def derive(self, analysis: dict[str, Any], replaces: list[str]) -> "SegmentWriter":
        """The writer of an analysis' rows, which replace those of the analyses called `replaces`."""
        self._check_open()
        record = {"op": "derive", "analysis": analysis, "replaces": replaces}
        self._open = SegmentWriter(self, f"analysis {analysis['analysis_id']}", record, buffer_bytes=BUFFER_BYTES)
        return self._open

    @property
    def derived(self) -> list[Record]:
        """Records of the analyses that count now."""
        return self._current().derived

    def finish(
        self,
        status: Literal["complete", "failed"] = "complete",
        error: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Record that this writer's work is done (or failed), and release the lock."""
        self._check_open()
        others = read_run(self._disk, self._layout, self.run_id).chains
        heads: dict[str, list[int | str]] = {
            w: [c[-1].seq, c[-1].digest] for w, c in others.items() if w != self.writer
        }
        self.publish(op="finish", status=status, error=error, extra=extra or {}, heads=heads)
        self.close()

    def close(self) -> None:
        """Release the lock; an unfinished run is then `interrupted`."""
        self.closed = True
        self._lock.release()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, **fields: Any) -> Record:
        """Publish this writer's next commit record; part of sealing, not for callers."""
        layout, previous = self._layout, self._chain[-1].digest if self._chain else self._log.digest
        place = {"run_id": self.run_id, "writer": self.writer, "seq": self.next_seq}
        record = Record(**place, previous=previous, time=commits.now(), tool_version=version("tracelake"), **fields)
        data, digest = commits.encode(record)
        if layout.tombstone(self.run_id).exists():
            raise NotFoundError(f"Run {self.run_id} was removed while it was being written.")
        target = layout.record(self.run_id, self.writer, self.next_seq)
        with explained(f"publishing the commit record {record.name} of run {self.run_id}"):
            try:
                commits.publish(self._disk, data, self.staging / f"{record.name}.part", target)
            except BaseException:
                # Linked but not synced: neither committed nor not. A fresh start reads what is really there.
                self._broken = target.exists()
                raise
        record = commits.decode(data, record.name, self.run_id)
        assert record.digest == digest
        self._chain.append(record)
        return record

    @property
    def next_seq(self) -> int:
        """Number of this writer's next record."""
        return len(self._chain)

    @property
    def broken(self) -> bool:
        """Whether a record was published without being acknowledged."""
        return self._broken

    def release_segment(self) -> None:
        """Called by a segment when it ends."""
        self._open = None

    def environment(self) -> tuple[Disk, Layout, Folders]:
        """What a segment needs to write files."""
        return self._disk, self._layout, self._folders

    def _current(self) -> RunLog:
        return self._log.with_chain(self.writer, self._chain)

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError(f"The writer of run {self.run_id} is closed; resume the run to write more.")
        if self._broken:
            raise LakeError(
                f"The last commit of run {self.run_id} could not be made durable. Stop here and resume the run: "
                "what is on disk then decides."
            )
