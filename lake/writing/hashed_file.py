"""The sink that a Parquet writer or a blob writes to: its bytes go to the disk, are counted, hashed and synced."""

from collections import deque
from concurrent.futures import Future, wait

from ..records.checksum import Checksum, new_hasher
from ..storage.store import NewFile
from .threads import Threads

_PIECES_BYTES = 1 << 20  # handed to the writing thread at once
_AHEAD = 16  # such batches that may wait: bounds memory
_SYNC_BYTES = 16 << 20  # after so many the disk begins to store them: little is left to wait for at the end


class HashedFile:
    """Written forward. An error of the disk is raised by a later `write`, or by `durable` at the latest."""

    closed = False

    def __init__(self, file: NewFile, threads: Threads, algorithm: str) -> None:
        self.size = 0
        self._file, self._threads = file, threads
        self._algorithm, self._hasher = algorithm, new_hasher(algorithm)
        self._waiting: deque[Future[None]] = deque()
        self._syncing: list[Future[None]] = []
        self._pieces: list[bytes] = []
        self._pieces_bytes = self._unsynced = 0
        self._given_up = False

    def write(self, data: bytes) -> int:
        """Take `data`; nothing more once the file is given up (closing a Parquet writer writes a footer)."""
        if self._given_up:
            return len(data)
        self.size += len(data)
        self._pieces.append(data)
        self._pieces_bytes += len(data)
        if self._pieces_bytes >= _PIECES_BYTES or self._threads.inline:
            self._hand_over()
            self._sync_early()
        return len(data)

    def _hand_over(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._unsynced += self._pieces_bytes
        self._pieces_bytes = 0
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _AHEAD):
            self._waiting.popleft().result()
        if self._threads.busy and not self._waiting:
            self._take(pieces)
        elif pieces and (future := self._threads.feed(self._take, pieces)):
            self._waiting.append(future)

    def _take(self, pieces: list[bytes]) -> None:
        """Hashing a piece brings it into the processor's cache, from where it is then written."""
        for piece in pieces:
            self._hasher.update(piece)
            self._file.write(piece)

    def _sync_early(self) -> None:
        """Every sync is waited for in the end: an error of the disk is told to one of them only."""
        if self._unsynced >= _SYNC_BYTES and not self._threads.inline and all(one.done() for one in self._syncing):
            self._unsynced = 0
            if future := self._threads.sync(self._file.sync, after=[]):
                self._syncing.append(future)

    def begin_sync(self) -> None:
        """No more bytes come: begin to make all of them durable."""
        self._hand_over()
        if future := self._threads.sync(self._file.sync, after=list(self._waiting)):
            self._syncing.append(future)

    def durable(self) -> Checksum:
        """Wait until all bytes are durable and close the file; the checksum of the bytes."""
        for future in (*self._waiting, *self._syncing):
            future.result()
        self._file.close()
        return Checksum(self._algorithm, self._hasher.hexdigest())

    def give_up(self) -> None:
        """Ignore all further writes."""
        self._given_up = True

    def abandon(self) -> None:
        """Close the file, whatever became of what was written: no thread may use its descriptor afterwards."""
        self._given_up = True
        wait([*self._waiting, *self._syncing])
        self._file.close()

    # The rest of what pyarrow asks of a sink.
    def tell(self) -> int:
        """Bytes taken."""
        return self.size

    def flush(self) -> None:
        """What waits is written in its turn."""

    def close(self) -> None:
        """The owner closes the file, after syncing it."""

    def readable(self) -> bool:
        """Never."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Never: Parquet is written forward."""
        return False
