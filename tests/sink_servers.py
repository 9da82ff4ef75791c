"""Local servers for the tests of `lake metrics`: one that records requests, and real ones as child processes."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

import tracelake

UNPACKED = Path(tracelake.__file__).parent / "build" / "sinks" / "usr" / "bin"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Recorder:
    """What was asked, and what is answered: a status each, the last one for ever."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [200])
    answer: bytes = b"{}"
    location: str | None = None
    requests: list[Request] = field(default_factory=list)


@contextmanager
def recording() -> Iterator[Recorder]:
    """An HTTP server on a free loopback port that keeps what it is sent."""
    recorder = Recorder()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            recorder.requests.append(Request(self.command, self.path, headers, body))
            status = recorder.statuses.pop(0) if len(recorder.statuses) > 1 else recorder.statuses[0]
            self.send_response(status)
            if recorder.location:
                self.send_header("Location", recorder.location)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(recorder.answer)))
            self.end_headers()
            self.wfile.write(recorder.answer)

        do_POST = do_PUT = do_GET = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def program(name: str) -> str:
    """Path of a server's program, from `make test-sinks` or the PATH; skips the test if there is none."""
    found = shutil.which(name, path=str(UNPACKED)) or shutil.which(name)
    if found is None:
        if os.environ.get("LAKE_TEST_SINK_SERVERS") == "required":
            pytest.fail(f"{name} is not here, although `make test-sinks` should have unpacked it")
        pytest.skip(f"{name} is not installed: `make test-sinks` gets it")
    return found


@contextmanager
def running(command: list[str], ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process of its own, once the address `ready` answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        until(lambda: answers(ready) or _ended(process), 30)
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _ended(process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        assert process.stderr is not None
        raise AssertionError(process.stderr.read().decode())
    return False


def answers(url: str) -> bool:
    """Whether something answers there."""
    try:
        with urlopen(url, timeout=5) as response:
            return response.status == 200
    except (URLError, OSError):
        return False


def until(condition: Callable[[], object], seconds: float) -> object:
    """Wait for a condition and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found
