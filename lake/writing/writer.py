"""One writer of one run: its lease, its chain of commit records, and the segments it opens."""

import threading
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any, Literal

from .. import layout
from ..errors import LakeError, NotFoundError, UsageError
from ..layout import DERIVED_WRITER
from ..records import commits
from ..records.checksum import algorithm_of
from ..records.commits import Record
from ..records.run_json import RunJson
from ..snapshot import RunLog, read_run
from ..storage.store import Lease, Store, explained
from ..values import Json
from .parts import Place
from .segments import Commit, SegmentWriter
from .series import GenerationSeries

BUFFER_BYTES = 256 << 20


@cache
def tool_version() -> str:
    """Version of the installed tracelake (read from its metadata: the facade above must not be imported here)."""
    return version("tracelake")


class RunWriter:
    """One writer of one run. Holds the writer's lease from start to `finish` or `close`."""

    def __init__(self, store: Store, run_id: str, writer: str, *, lease: Lease) -> None:
        self.run_id, self.writer = run_id, writer
        self.store, self._lease = store, lease
        self._broken = False
        self._kept: set[int] = set()
        """Numbers of the records that this writer published."""
        self._open: SegmentWriter | None = None
        self._sealing: str | None = None
        self._lost: str | None = None
        self._chained = threading.Lock()
        self.closed = False
        with explained(f"opening run {run_id} for writing"):
            staging = layout.staging(run_id, writer)
            store.remove(f"{staging}/{name}" for name in store.names(staging))
            # A record that a killed writer linked but did not sync must be durable before it counts as done.
            store.settle(layout.commits(run_id))
        self._log: RunLog = read_run(store, run_id)
        self._chain = list(self._log.chains.get(writer, []))
        if self._chain and _is_end(self._chain[-1]):
            self._publish_end(self._chain[-1])  # an earlier process may have died before it did

    @property
    def run_json(self) -> RunJson:
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
        return sum(size for record in self._current().visible for _, size in record.paths)

    @property
    def notes(self) -> dict[int, Json]:
        """What the commits of segments say for whoever goes on, by segment."""
        return {record.segment: record.extra for record in self._current().segments if record.segment is not None}

    @property
    def finished(self) -> bool:
        """Whether the run is complete: nothing is left to do."""
        return self._current().outcome == "complete"

    @property
    def next_seq(self) -> int:
        """Number of this writer's next commit record that nobody is about to publish."""
        with self._chained:
            return len(self._chain) + (self._sealing is not None)

    def segment(self, index: int, items: tuple[int, int], *, buffer_bytes: int = BUFFER_BYTES) -> SegmentWriter:
        """The writer of one segment, covering the half-open range `items`; use it as a context manager."""
        self._check_open()
        if index in self.committed:
            raise UsageError(f"Segment {index} of run {self.run_id} is committed already.")
        if self._open is not None:
            raise UsageError(f"{self._open.what.capitalize()} of run {self.run_id} is still open.")
        fields = {"op": "segment", "segment": index, "items": list(items)}
        # Of an imported run there are reports' own numbers too, which the views weigh.
        n_layers = (self.run_json.get("model") or {}).get("n_layers")
        series = None if self.run_json.get("kind") == "import" else GenerationSeries(n_layers)
        return self._opened(f"segment {index}", fields, buffer_bytes, series)

    def hand_over(self) -> SegmentWriter:
        """The open segment, to be sealed (or abandoned) in another thread while the next one is filled.

        One at a time: the earlier one's end is waited for first. If its sealing fails, this writer goes no further.
        """
        if self._open is None or self._sealing is not None:
            raise UsageError(f"Run {self.run_id}: {self._sealing or 'no segment'} is being sealed.")
        segment = self._open
        with self._chained:
            self._sealing, self._open = segment.what, None
        return segment

    def derive(self, analysis: Json, replaces: list[str]) -> SegmentWriter:
        """The writer of an analysis' rows, which replace those of the analyses called `replaces`."""
        self._check_open()
        fields = {"op": "derive", "analysis": analysis, "replaces": replaces, "heads": self._heads(self._log)}
        return self._opened(f"analysis {analysis['analysis_id']}", fields, BUFFER_BYTES)

    def withdraw(self, analysis_id: str) -> None:
        """Record that an analysis counts no more."""
        self._check_open()
        self._publish(op="derive", replaces=[analysis_id], heads=self._heads(self._log))

    def _opened(
        self, what: str, fields: Json, buffer_bytes: int, series: GenerationSeries | None = None
    ) -> SegmentWriter:
        checksums = algorithm_of(self.run_json.get("format_version", 1))
        place = Place(self.store, self.run_id, self.writer, self.next_seq, checksums)
        seq = self.next_seq
        keeps = lambda: self._broken or seq in self._kept  # noqa: E731
        commit = Commit(what, place, fields, self._publish, keeps, self._release_segment, series)
        self._open = SegmentWriter(commit, buffer_bytes=buffer_bytes)
        return self._open

    @property
    def derived(self) -> list[Record]:
        """Records of the analyses that count now."""
        return self._current().derived

    def finish(
        self,
        status: Literal["complete", "failed"] = "complete",
        error: str | None = None,
        extra: Json | None = None,
    ) -> None:
        """Record that this writer's work is done (or failed), and release the lease."""
        self._check_open()
        heads = self._heads(read_run(self.store, self.run_id))
        self._publish(op="finish", status=status, error=error, extra=extra or {}, heads=heads)
        self.close()

    def close(self) -> None:
        """Release the lease; an unfinished run is then `interrupted`."""
        self.closed = True
        self._lease.release()

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _heads(self, log: RunLog) -> dict[str, list[int | str]]:
        """The last record of every other writer: what this one's next record will vouch for."""
        return {w: [chain[-1].seq, chain[-1].digest] for w, chain in log.chains.items() if w != self.writer}

    def _publish(self, **fields: Any) -> Record:
        """Publish this writer's next commit record."""
        previous = self._chain[-1].digest if self._chain else self._log.digest
        seq = len(self._chain)
        place = {"run_id": self.run_id, "writer": self.writer, "seq": seq}
        record = Record(**place, previous=previous, time=commits.now(), tool_version=tool_version(), **fields)
        data, digest = commits.encode(record)
        if self.store.exists(layout.tombstone(self.run_id)):
            raise NotFoundError(f"Run {self.run_id} was removed while it was being written.")
        target = layout.record(self.run_id, self.writer, seq)
        staging = layout.staging(self.run_id, self.writer)
        with explained(f"publishing the commit record {record.name} of run {self.run_id}"):
            try:
                commits.publish(self.store, data, target, draft=f"{staging}/{record.name}.part")
            except BaseException:
                # Linked but not synced: neither committed nor not. A fresh start reads what is really there.
                self._broken = self.store.exists(target)
                raise
        return self._published(commits.decode(data, record.name, self.run_id), digest)

    def _published(self, record: Record, digest: str) -> Record:
        """Note a record that is there. What it names must not be taken back, whatever breaks in (an interrupt, too)."""
        self._kept.add(record.seq)
        assert record.digest == digest
        with self._chained:
            self._chain.append(record)
            if self._sealing == f"segment {record.segment}":
                self._sealing = None
        if _is_end(record):
            try:
                self._publish_end(record)
            except BaseException:
                self._broken = True
                raise
        return record

    def _publish_end(self, record: Record) -> None:
        """Say outside the chain where it ends, so that a lost end is noticed; what it said before is taken away."""
        folder, leaf = layout.end(self.run_id, record.writer, record.seq, record.digest).rsplit("/", 1)
        known = self.store.names(folder)
        if leaf not in known:
            draft = f"{layout.staging(self.run_id, self.writer)}/end.part"
            with explained(f"publishing the end of run {self.run_id}"):
                commits.publish(self.store, b"", f"{folder}/{leaf}", draft=draft)
        earlier = [name for name in known if name != leaf and name.startswith(f"{record.writer}-")]
        with suppress(OSError):  # an end too many is no harm
            self.store.remove(f"{folder}/{name}" for name in earlier)

    def _release_segment(self, segment: SegmentWriter) -> None:
        with self._chained:
            if segment is self._open:
                self._open = None
            elif self._sealing == segment.what:  # it was not published
                self._sealing, self._lost = None, segment.what

    def _current(self) -> RunLog:
        return self._log.with_chain(self.writer, self._chain)

    def _check_open(self) -> None:
        if self.closed:
            raise UsageError(f"The writer of run {self.run_id} is closed; resume the run to write more.")
        if self._lost is not None:
            raise LakeError(
                f"{self._lost.capitalize()} of run {self.run_id} could not be written; nothing after it can. "
                "Resume the run."
            )
        if self._broken:
            raise LakeError(
                f"The last commit of run {self.run_id} could not be made durable. Stop here and resume the run: "
                "what is on disk then decides."
            )


def _is_end(record: Record) -> bool:
    """Whether losing this record would make the run look as it was earlier, without anything in the chain to tell."""
    return record.op == "finish" or record.writer == DERIVED_WRITER
