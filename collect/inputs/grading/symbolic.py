"""The grader `symbolic`: as `exact`, and where that finds no equality, math-verify compares the expressions.

math-verify limits its own time with signals and refuses threads, so it runs in a child process that is killed when an
answer takes too long. It is asked only where numbers do not settle the matter.
"""

import atexit
import json
import queue
import subprocess
import sys
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from ....lake.errors import ConfigError
from .exact import grade
from .notation import clean, last_box
from .numbers import read_number
from .reference import Reference
from .verdict import TIMED_OUT, Grade
from .words import after_hashes

LIMIT_S = 3.0
"""Longest time for one pair of answers."""
START_S = 120.0
"""Longest time in which the child loads its libraries."""
PACKAGE = "math-verify"


def symbolic_name() -> str:
    """Name and version of the grader; ConfigError if math-verify is not installed."""
    try:
        return f"symbolic/1+{PACKAGE}-{version(PACKAGE)}"
    except PackageNotFoundError as error:
        raise ConfigError(
            "The grader `symbolic` needs an extra package: pip install 'tracelake[math]'; or use --grader exact."
        ) from error


def grade_symbolic(completion: str, answer: str, limit_s: float = LIMIT_S) -> Grade:
    """Grade a completion; a box that is another way to write the reference is right."""
    graded = grade(completion, answer)
    reference = Reference.read(answer)
    box = last_box(completion) or after_hashes(completion)
    if graded.correct or reference is None or box is None or not clean(box):
        return graded
    if reference.number is not None and read_number(box) is not None:
        return graded
    equal = _child().equal(box, reference.text, limit_s)
    if equal is None:
        return Grade(graded.predicted_answer, False, TIMED_OUT)
    return Grade(clean(box), True, None) if equal else graded


@cache
def _child() -> "Child":
    child = Child()
    atexit.register(child.stop)
    return child


class Child:
    """math-verify in a process of its own, started when it is first asked and again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._lock = threading.Lock()

    def equal(self, answer: str, reference: str, limit_s: float) -> bool | None:
        """Whether both are the same expression; None if that takes too long or the child dies of it."""
        with self._lock:
            process = self._running()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps([answer, reference]) + "\n")
                process.stdin.flush()
                return json.loads(self._said.get(timeout=limit_s))
            except (queue.Empty, OSError, ValueError):
                self.stop()
                return None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.stop()
            command = [sys.executable, "-m", f"{__package__}.verify_child"]
            self._said = queue.SimpleQueue()
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                encoding="utf-8",
            )  # fmt: skip
            threading.Thread(target=_listen, args=(self._process, self._said), daemon=True).start()
            try:
                ready = self._said.get(timeout=START_S)
            except queue.Empty:
                ready = ""
            if not ready.strip():
                self.stop()
                raise ConfigError(f"{PACKAGE} does not start: run `{sys.executable} -m {__package__}.verify_child`.")
        return self._process

    def stop(self) -> None:
        """End the child; harmless when there is none."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdin is not None
            try:
                process.stdin.close()
            except OSError:
                pass  # what was not sent is of no use to the dead


def _listen(process: "subprocess.Popen[str]", said: "queue.SimpleQueue[str]") -> None:
    """Hand on what the child says, and an empty line when it has ended."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            said.put(line)
    said.put("")
