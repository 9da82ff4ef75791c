"""Where results go: full disks, closed streams, folders, devices, pipes and links; never a traceback, never a loss."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tracelake.lake.errors import ConfigError, DiskFullError
from tracelake.lake.lake import Lake
from tracelake.lake.output.files import replace_file, replaced

LAKE = Path(sys.executable).with_name("lake")


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return Lake.create(tmp_path_factory.mktemp("outputs") / "lake").path


def shell(command: str, lake: Path) -> tuple[int, str]:
    """Exit code of a shell line and what it says on stderr."""
    line = command.replace("lake", str(LAKE), 1)
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, env={
        **os.environ, "TRACELAKE_LAKE": str(lake)
    })  # fmt: skip
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("lake sql 'select 1' > /dev/full", 8, "disk is full"),
        ("lake sql 'select 1' -f csv -o /dev/full", 8, "/dev/full.*disk is full"),
        ("lake --help > /dev/full", 8, "disk is full"),
        ("lake sql 'select 1' >&-", 4, "stdout is closed"),
        ("lake sql 'select range from range(300000)' -f csv | head -1", 0, ""),
        ("lake sql 'selct' 2> /dev/full", 2, ""),
        ("lake sql 'selct' 2>&-", 2, ""),
        ("lake sql 'select 1' -f csv -o {folder}", 4, "is a folder"),
        ("lake sql 'select 1' -o {folder}/none/x.csv", 3, "does not exist"),
        ("lake sql 'select 1' -f csv -o /dev/stdout | grep -q 1", 0, ""),
    ],
)
def test_what_cannot_be_written_is_one_sentence(lake, tmp_path, command, code, words):
    import re

    ended, said = shell(command.format(folder=tmp_path), lake)
    assert ended == code, said
    assert re.search(words, said) and (said.count("\n") <= 1)
    assert list(tmp_path.iterdir()) == []


def test_a_device_a_pipe_and_a_link_stay_what_they_are(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    replace_file(pipe, b"through")
    reader.join(20)
    assert read == [b"through"] and stat.S_ISFIFO(pipe.stat().st_mode)
    before = os.stat("/dev/null")
    replace_file(Path("/dev/null"), b"gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.stat("/dev/null").st_ino == before.st_ino
    to_device = tmp_path / "device"
    to_device.symlink_to("/dev/null")
    replace_file(to_device, b"gone")
    assert to_device.is_symlink()
    for target in (tmp_path / "there", tmp_path / "not-yet"):
        link = tmp_path / f"link-{target.name}"
        link.symlink_to(target.name)
        (tmp_path / "there").write_bytes(b"old")
        replace_file(link, b"new")
        assert link.is_symlink() and target.read_bytes() == b"new"
    assert not list(tmp_path.glob(".*"))


def test_a_replaced_file_keeps_its_permissions_and_is_whole_or_as_before(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o640)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(RuntimeError), replaced(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"new" and [p.name for p in tmp_path.iterdir()] == ["x"]
    looping = tmp_path / "loop"
    looping.symlink_to(looping)
    with pytest.raises(ConfigError):
        replace_file(looping, b"x")
    with pytest.raises(ConfigError, match="is a folder"):
        replace_file(tmp_path, b"x")


def test_a_disk_that_fills_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    import errno

    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="disk is full"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]
