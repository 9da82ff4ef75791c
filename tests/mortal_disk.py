"""A disk whose process dies before a chosen operation: what was done stays, what was to come never happens."""

from pathlib import Path

from tracelake.lake.storage.disk import Disk, DiskFile


class Killed(BaseException):
    """The process is gone."""


class MortalFile(DiskFile):
    """A file of a `MortalDisk`; a write may be cut in its middle."""

    def __init__(self, file: DiskFile, disk: "MortalDisk") -> None:
        self.__dict__ = file.__dict__
        self.disk = disk

    def write(self, data: bytes | memoryview) -> None:
        if self.disk.is_last(len(data) > 1000):
            super().write(memoryview(data)[: len(data) // 2])
        if len(data) > 1000 or self.name.endswith(".json.part"):  # Parquet writes many tiny pieces
            self.disk.step()
        super().write(data)

    def sync(self) -> None:
        self.disk.step()


class MortalDisk(Disk):
    """The real disk; the process dies before operation number `at` (0: never)."""

    parallel = False

    def __init__(self, root: Path, at: int = 0) -> None:
        super().__init__(root)
        self.at, self.steps = at, 0

    def is_last(self, counts: bool) -> bool:
        """Whether the next operation is the one that is never done, if it is one that counts."""
        return counts and self.steps + 1 == self.at

    def step(self) -> None:
        """One operation more; what is dead does nothing when it is cleared away either."""
        self.steps += 1
        if 0 < self.at <= self.steps:
            raise Killed

    def create(self, name: str) -> DiskFile:
        self.step()
        return MortalFile(super().create(name), self)

    def rename(self, source: str, target: str) -> None:
        self.step()
        super().rename(source, target)

    def link(self, source: str, target: str) -> None:
        self.step()
        super().link(source, target)

    def unlink(self, name: str) -> None:
        self.step()
        super().unlink(name)

    def remove_folder(self, name: str) -> None:
        self.step()
        super().remove_folder(name)

    def make_folder(self, name: str) -> None:
        self.step()
        super().make_folder(name)

    def sync_folder(self, name: str) -> None:
        self.step()
