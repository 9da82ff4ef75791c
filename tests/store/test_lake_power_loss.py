"""An adversarial disk: what was not synced may be lost in several ways, after any operation of a real write.

The real code runs on a disk that notes every operation. From each prefix of the notes, the states that a power cut may
leave are built as real folders, and the real code must recover: nothing acknowledged is lost, nothing torn is visible.
Leaving out any one kind of sync must be noticed.
"""

import hashlib
import os
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tracelake.lake.errors import LakeError
from tracelake.lake.lake import Lake
from tracelake.lake.storage.disk import Disk, DiskFile
from tracelake.lake.storage.local import LocalStore

RUN = "power-run"
MODES = ("kept", "lost", "names only", "torn", "zeros", "data only", "mixed")


class NotingFile(DiskFile):
    def __init__(self, file, path, notes):
        self.__dict__ = file.__dict__
        self.path, self.notes = path, notes

    def write(self, data):
        super().write(data)
        if self.notes[-2:-1] and self.notes[-1][:2] == self.notes[-2][:2] == ("write", self.path):
            data = self.notes.pop()[2] + bytes(data)  # one crash within the file's writes is enough
        self.notes.append(("write", self.path, bytes(data)))

    def sync(self):
        self.notes.append(("sync", self.path))


class NotingDisk(Disk):
    """The real disk without waiting for the device, noting every operation."""

    parallel = False

    def __init__(self, root):
        super().__init__(root)
        self.notes = []

    def note(self, what, *names):
        self.notes.append((what, *(self.root / name for name in names)))

    def create(self, name):
        file = NotingFile(super().create(name), self.root / name, self.notes)
        self.note("create", name)
        return file

    def rename(self, source, target):
        super().rename(source, target)
        self.note("rename", source, target)

    def link(self, source, target):
        super().link(source, target)
        self.note("link", source, target)

    def unlink(self, name):
        if (self.root / name).exists():
            super().unlink(name)
            self.note("unlink", name)

    def make_folder(self, name):
        if not (self.root / name).exists():
            super().make_folder(name)
            self.note("mkdir", name)

    def remove_folder(self, name):
        super().remove_folder(name)
        self.note("unlink", name)

    def sync_folder(self, name):
        self.note("sync_folder", name)


@dataclass
class File:
    data: bytes = b""
    durable: bytes = b""
    path: Path = Path()


@dataclass
class Model:
    """What the kernel holds and what the device holds. A folder entry is a File, or None for a folder."""

    now: dict[Path, dict[str, File | None]] = field(default_factory=dict)
    durable: dict[Path, dict[str, File | None]] = field(default_factory=dict)
    files: dict[Path, File] = field(default_factory=dict)
    acknowledged: list = field(default_factory=list)

    def entries(self, folder):
        return self.now.setdefault(folder, {})

    def apply(self, note):
        kind, *rest = note
        path = rest[0]
        if kind == "create":
            self.files[path] = self.entries(path.parent)[path.name] = File(path=path)
        elif kind == "write":
            self.files[path].data += rest[1]
        elif kind == "sync":
            self.files[path].durable = self.files[path].data
        elif kind == "rename":
            file = self.entries(path.parent).pop(path.name)
            self.entries(rest[1].parent)[rest[1].name] = file
            self.files[path] = file
        elif kind == "link":
            self.entries(rest[1].parent)[rest[1].name] = self.entries(path.parent)[path.name]
        elif kind == "unlink":
            del self.entries(path.parent)[path.name]
        elif kind == "mkdir":
            self.entries(path.parent)[path.name] = None
        elif kind == "sync_folder":
            self.durable[path] = dict(self.entries(path))
        elif kind == "acknowledge":
            self.acknowledged.append(path)

    def left(self, root, mode, rng):
        """Relative path -> bytes (None for a folder) after a power cut now."""
        out = {}

        def names(folder):
            durable, now = self.durable.get(folder, {}), self.now.get(folder, {})
            if mode in ("kept", "names only", "torn", "zeros"):
                return now
            if mode in ("lost", "data only"):
                return durable
            return {n: e for n, e in {**durable, **now}.items() if (n in durable and n in now) or rng.random() < 0.5}

        def content(file):
            if mode in ("kept", "data only"):
                return file.data
            if mode == "torn":
                return file.durable or file.data[: len(file.data) // 2]
            if mode == "zeros":
                return file.durable + b"\0" * (len(file.data) - len(file.durable))
            if mode == "mixed":
                return rng.choice([file.data, file.durable])
            return file.durable

        def walk(folder):
            for name, file in names(folder).items():
                path = folder / name
                out[path.relative_to(root)] = None if file is None else content(file)
                if file is None:
                    walk(path)

        walk(root)
        return out


def rows(segment):
    sequence = np.array([2 * segment, 2 * segment + 1])
    return np.repeat(sequence, 3), np.tile(np.arange(3, dtype=np.int32), 2)


def write_segment(run, index):
    sequence, position = rows(index)
    with run.segment(index, (2 * index, 2 * index + 2)) as segment:
        segment.append("sequences", {"sequence_id": np.unique(sequence), "prompt": "p"})
        segment.append("token_steps", {"sequence_id": sequence, "position": position, "stack": "decoder"})
        vectors = np.full((6, 4), index, np.float32)
        columns = {"sequence_id": sequence, "position": position, "stack": "decoder"}
        segment.append_vectors(
            "activations", layer=0, site="resid_post", columns=columns, vectors=vectors, dtype="float32"
        )


def the_notes(root):
    """A whole life of a small lake, with what was acknowledged noted in between."""
    disk = NotingDisk(root)
    note = disk.notes.append
    lake = Lake.create(root, store=LocalStore(root, disk))
    note(("acknowledge", "lake"))
    run = lake.start_run(RUN, {"plan": {"segments": [[0, 2], [2, 4]]}})
    note(("acknowledge", "run"))
    for index in range(2):
        write_segment(run, index)
        note(("acknowledge", index))
    run.finish()
    note(("acknowledge", "complete"))
    return disk.notes


class Recovery(Disk):
    """The disk after the power came back: no need to wait for the device."""

    parallel = False

    def sync_folder(self, path):
        pass

    def create(self, path):
        file = super().create(path)
        file.sync = lambda: None
        return file


def violation(root, acknowledged):
    """What is wrong with the lake left on disk, also after resuming; None if nothing."""
    try:
        return _violation(root, acknowledged)
    except (LakeError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"


def _violation(root, acknowledged):
    opening = Lake.open if "lake" in acknowledged else Lake.create
    lake = opening(root, store=LocalStore(root, Recovery(root)))
    logs = lake.snapshot().runs
    if "run" in acknowledged and RUN not in logs:
        return "the run is gone"
    if RUN in logs:
        committed = logs[RUN].committed
        if missing := {a for a in acknowledged if isinstance(a, int)} - committed:
            return f"acknowledged segments {missing} are gone"
        if "complete" in acknowledged and logs[RUN].outcome != "complete":
            return "the completion is gone"
        if problems := lake.verify("full").problems:
            return f"visible damage: {problems[0]}"
    run = lake.resume_run(RUN) if RUN in logs else lake.start_run(RUN, {"plan": {"segments": [[0, 2], [2, 4]]}})
    if not run.finished:
        for index in sorted({0, 1} - run.committed):
            write_segment(run, index)
        run.finish()
    run.close()
    log = lake.snapshot().runs[RUN]
    if log.committed != {0, 1} or log.outcome != "complete" or log.counters["n_tokens"] != 12:
        return "resuming did not complete the run"
    if problems := lake.verify("full").problems:
        return f"damage after resuming: {problems[0]}"
    globbed = list((root / "_staging" / RUN).rglob("*.part"))
    return f"leftovers in staging: {globbed}" if globbed else None


def violations(notes, root, work, modes=MODES, *, first=False):
    """What goes wrong in the states after every operation of `notes`, and how many states there were."""
    model, rng = Model(now={root: {}}, durable={root: {}}), random.Random(0)
    # The folder of the lake itself exists and is durable: its parents are the user's.
    states = {}
    for number, note in enumerate(notes):
        model.apply(note)
        for mode in modes:
            left = model.left(root, mode, rng)
            digest = hashlib.sha256(repr(sorted(left.items())).encode()).digest()
            # The same state with more acknowledged is the stricter case, and it comes later.
            states[digest] = (left, list(model.acknowledged), f"after {number} {note[:2]}, {mode}")
    found = []
    # The latest first: they have most to lose.
    for number, (left, acknowledged, what) in enumerate(reversed(states.values())):
        target = work / f"lake{number}"
        for path, data in [(Path(), None), *left.items()]:
            if data is None:
                (target / path).mkdir(parents=True, exist_ok=True)
            else:
                (target / path).parent.mkdir(parents=True, exist_ok=True)
                (target / path).write_bytes(data)
        if wrong := violation(target, acknowledged):
            found.append(f"{what}: {wrong}")
            if first:
                break
        shutil.rmtree(target)
    return found, len(states)


@pytest.fixture
def work(tmp_path):
    """A folder for many small trees: in memory where the system has one."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    root = tmp_path_factory.mktemp("power") / "lake"
    root.mkdir()
    return the_notes(root), root


def test_nothing_acknowledged_is_lost_and_nothing_torn_is_seen(story, work):
    notes, root = story
    found, states = violations(notes, root, work)
    assert found == []
    assert states > 120  # a file ends before the next begins, so fewer lie open at once


KINDS = {
    "data file": lambda n: n[0] == "sync" and n[1].name.startswith(("token_steps", "activations", "sequences")),
    "data folder": lambda n: n[0] == "sync_folder" and "run=" in n[1].name,
    "partition folder": lambda n: n[0] == "sync_folder" and "site=" in n[1].name,
    "table folder's parent": lambda n: n[0] == "sync_folder" and n[1].name == "data",
    "record": lambda n: n[0] == "sync" and n[1].name.endswith(".json.part") and RUN in str(n[1]) and "w0-" in n[1].name,
    "commits folder": lambda n: n[0] == "sync_folder" and n[1].name == "commits",
    "run.json": lambda n: n[0] == "sync" and n[1].name == "run.json.part",
    "run folder": lambda n: n[0] == "sync_folder" and n[1].name == RUN and n[1].parent.name == "_runs",
    "folder of runs": lambda n: n[0] == "sync_folder" and n[1].name == "_runs",
    "lake.json": lambda n: n[0] == "sync" and n[1].name.startswith("lake-"),
    "lake folder": lambda n: n[0] == "sync_folder" and (n[1] / "lake.json").exists(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_out_a_sync_is_noticed(story, work, kind):
    notes, root = story
    kept = [note for note in notes if not KINDS[kind](note)]
    assert len(kept) < len(notes), "the writer never makes this sync"
    found, _ = violations(kept, root, work, ("lost", "names only", "data only"), first=True)
    assert found, f"without the sync of the {kind}, the model saw no loss"


def test_a_record_linked_but_not_synced_is_made_durable_before_it_counts(tmp_path):
    """Kill after the link, resume, then lose power: what the resumed writer reports as committed must survive."""
    root = tmp_path / "lake"
    root.mkdir()
    notes = the_notes(root)
    first_link = next(i for i, n in enumerate(notes) if n[0] == "link" and n[2].parent.name == "commits")
    model = Model(now={root: {}}, durable={root: {}})
    for note in notes[: first_link + 1]:
        model.apply(note)
    target = tmp_path / "again" / "lake"
    for path, data in model.left(root, "kept", random.Random(0)).items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).mkdir(exist_ok=True) if data is None else (target / path).write_bytes(data)
    disk = NotingDisk(target)
    run = Lake.open(target, store=LocalStore(target, disk)).resume_run(RUN)
    assert run.committed == {0}
    run.close()
    for note in disk.notes:
        moved = [root / p.relative_to(target) if isinstance(p, Path) else p for p in note[1:]]
        model.apply((note[0], *moved))
    left = model.left(root, "lost", random.Random(0))
    assert any(path.parent.name == "commits" for path in left)
