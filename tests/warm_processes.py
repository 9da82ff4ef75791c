"""Processes of their own that have the libraries of models loaded: forked off one that imported them once.

For tests of what happens between processes: kills, signals, readers beside a writer. Importing torch and transformers
takes ten times as long as a small run; what start-up itself loads and says is tested with interpreters of their own.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

# Only imports, and none that begins to work: a fork has no threads but one. Polars is left out, which begins three.
LOADED = (
    "tracelake.collect.running.collector",
    "tracelake.commands.collecting.collect",
    "transformers.models.auto.modeling_auto",
    "transformers.models.gpt2.modeling_gpt2",
)
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(list(LOADED))
_LAKE = "from tracelake.cli import main; main()"


class WarmProcess:
    """A running process, to be asked and ended as one of `subprocess` is."""

    def __init__(self, code: str, arguments: list[str], stdout: Connection | None, stderr: Path | None) -> None:
        given = (code, arguments, stdout, stderr, dict(os.environ), os.getcwd())
        self._process = _FORKS.Process(target=_run, args=given, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Exit code, negative for the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """Exit code once it has ended, None if it has not in that many seconds."""
        self._process.join(timeout)
        return self.poll()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def start_lake(*arguments: object, stderr: Path | None = None) -> WarmProcess:
    """`lake ARGUMENTS` as the console script runs it; `stderr` is appended to that file, or goes where ours goes."""
    return WarmProcess(_LAKE, ["lake", *map(str, arguments)], None, stderr)


@contextmanager
def piped(code: str, *arguments: object, stderr: Path | None = None) -> Iterator[tuple[WarmProcess, BinaryIO]]:
    """`python -c CODE ARGUMENTS` with what it prints; it is killed if it still runs at the end."""
    receiver, sender = _FORKS.Pipe(duplex=False)
    process = WarmProcess(code, ["-c", *map(str, arguments)], sender, stderr)
    sender.close()
    with receiver, open(receiver.fileno(), "rb", closefd=False) as output:
        try:
            yield process, output
        finally:
            process.kill()
            process.wait()


@contextmanager
def piped_lake(*arguments: object, stderr: Path | None = None) -> Iterator[tuple[WarmProcess, BinaryIO]]:
    """`start_lake` with what it prints."""
    with piped(_LAKE, *arguments, stderr=stderr) as process:
        yield process


def _run(
    code: str,
    arguments: list[str],
    stdout: Connection | None,
    stderr: Path | None,
    environment: dict[str, str],
    folder: str,
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    _redirect(1, os.open(os.devnull, os.O_WRONLY) if stdout is None else os.dup(stdout.fileno()))
    if stdout is not None:
        stdout.close()
    if stderr is not None:
        _redirect(2, os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = list(arguments)
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _redirect(number: int, opened: int) -> None:
    os.dup2(opened, number)
    os.close(opened)
