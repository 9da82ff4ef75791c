"""A disk on which an operation fails: once, or from then on for good."""

import errno
from pathlib import Path

from tracelake.lake.storage.disk import Disk, DiskFile


class FailingFile(DiskFile):
    """A file of a `FailingDisk`."""

    def __init__(self, file: DiskFile, disk: "FailingDisk") -> None:
        self.__dict__ = file.__dict__
        self.disk = disk

    def write(self, data: bytes | memoryview) -> None:
        if len(data) > 1000 or self.name.endswith(".json.part"):  # Parquet writes many tiny pieces
            self.disk.step("write", self.name)
        super().write(data)

    def sync(self) -> None:
        self.disk.step("sync", self.name)


class FailingDisk(Disk):
    """The real disk, failing at operation number `at` (and from then on, if `stays`)."""

    parallel = False

    def __init__(self, root: Path, at: int | None = None, code: int = errno.ENOSPC, *, stays: bool = False) -> None:
        super().__init__(root)
        self.at, self.code, self.stays, self.steps = at, code, stays, 0

    def step(self, what: str, path: str) -> None:
        """One operation more."""
        self.steps += 1
        if self.at is not None and (self.steps == self.at or (self.stays and self.steps > self.at)):
            raise OSError(self.code, f"injected at {what}", str(path))

    def create(self, name: str) -> DiskFile:
        self.step("create", name)
        return FailingFile(super().create(name), self)

    def rename(self, source: str, target: str) -> None:
        self.step("rename", target)
        super().rename(source, target)

    def link(self, source: str, target: str) -> None:
        self.step("link", target)
        super().link(source, target)

    def unlink(self, name: str) -> None:
        self.step("unlink", name)
        super().unlink(name)

    def make_folder(self, name: str) -> None:
        self.step("mkdir", name)
        super().make_folder(name)

    def sync_folder(self, name: str) -> None:
        self.step("sync_folder", name)
