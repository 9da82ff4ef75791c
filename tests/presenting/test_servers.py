"""Both servers answer to names of their own only: wrong hosts and origins over real sockets, the end of the parent."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tracelake.lake.errors import UsageError
from tracelake.lake.lake import Lake
from tracelake.queries.hosts import Hosts

pytest.importorskip("streamlit")
LAKE = str(Path(sys.executable).with_name("lake"))


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = Lake.create(tmp_path_factory.mktemp("servers") / "lake")
    with lake.start_run("a-run", {"kind": "generate", "model": {"name": "m"}}) as run:
        with run.segment(0, (0, 1)) as segment:
            keys = {"sequence_id": [0, 0], "position": np.arange(2, dtype=np.int32), "stack": "decoder"}
            segment.append("sequences", {"sequence_id": [0], "prompt": ["p"]})
            segment.append("token_steps", keys)
        run.finish()
    return lake


@contextmanager
def command(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A `lake` command that serves, and the port it printed."""
    process = subprocess.Popen([LAKE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline()
        assert address, process.stderr.read()
        yield process, int(address.split(":")[2].split("/")[0])
    finally:
        process.terminate()
        process.communicate(timeout=30)


def status(port: int, path: str, *headers: tuple[str, str], method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one request with exactly these headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body


def socket_status(port: int, *headers: tuple[str, str], path: str = "/_stcore/stream") -> int:
    """Status of a WebSocket's handshake."""
    fixed = [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
    key = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in [*headers, *fixed, key])]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as stream:
        stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(stream.recv(4096).split()[1])


def wrong_hosts(port: int) -> list[list[tuple[str, str]]]:
    names = ["evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::2]"]
    names += [f"evil.example@localhost:{port}", "localhost:1:2", "0.0.0.0", "169.254.169.254", "localhost evil"]
    alone = [[("Host", name)] for name in names]
    return [*alone, [], [("Host", "localhost"), ("Host", "evil.example")], [("X-Forwarded-Host", "localhost")]]


def right_hosts(port: int) -> list[str]:
    return [f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST", "gpu1.lab", f"gpu1.lab:{port}"]


def test_metrics_answer_to_names_of_their_own(lake):
    pytest.importorskip("prometheus_client")
    serve = ("metrics", "--serve", "--port", "0", "--lake", str(lake.path), "--allow-host", "gpu1.lab")
    with command(*serve) as (_, port):
        for headers in wrong_hosts(port):
            code, _, body = status(port, "/metrics", *headers)
            assert code in (400, 403) and "tracelake" not in body, headers
        for name in right_hosts(port):
            code, headers, body = status(port, "/metrics", ("Host", name))
            assert code == 200 and "tracelake_" in body, name
        host = ("Host", f"localhost:{port}")
        for origin in ("http://evil.example", f"http://localhost:{port + 1}", "null"):
            assert status(port, "/metrics", host, ("Origin", origin))[0] == 403
        code, _, body = status(port, "/metrics", ("Host", "gpu2.lab"))
        assert code == 403 and "--allow-host gpu2.lab" in body


@pytest.fixture(scope="module")
def served(lake):
    with command("dashboard", "--no-browser", "--lake", str(lake.path), "--allow-host", "gpu1.lab") as (_, port):
        yield port


PATHS = ("/", "/_stcore/health", "/_stcore/host-config", "/media/x", "/static/x", "/nothing")


def test_the_dashboard_answers_to_names_of_its_own(served):
    for headers in wrong_hosts(served):
        for path in PATHS:
            code, _, body = status(served, path, *headers)
            assert code in (400, 403) and "streamlit" not in body.lower(), (headers, path)
    for name in right_hosts(served):
        assert status(served, "/_stcore/health", ("Host", name))[0] == 200
        assert "streamlit" in status(served, "/", ("Host", name))[2].lower()
    host = ("Host", f"localhost:{served}")
    for origin in ("http://evil.example", f"http://localhost:{served + 1}", "null"):
        for method in ("GET", "POST", "PUT", "OPTIONS"):
            assert status(served, "/_stcore/health", host, ("Origin", origin), method=method)[0] == 403


def test_no_page_may_frame_the_dashboard(served):
    for path in PATHS:
        _, headers, _ = status(served, path, ("Host", f"localhost:{served}"))
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_the_dashboard_takes_sockets_from_its_own_page_only(served):
    for name in right_hosts(served):
        host = name.lower()
        assert socket_status(served, ("Host", name), ("Origin", f"http://{host}")) == 101, name
        assert socket_status(served, ("Host", name), ("Origin", "http://evil.example")) == 403
        assert socket_status(served, ("Host", name), ("Origin", f"http://localhost:{served + 1}")) == 403
        assert socket_status(served, ("Host", name), ("Origin", "null")) == 403
        assert socket_status(served, ("Host", name)) == 403
    for headers in wrong_hosts(served):
        origin = ("Origin", f"http://{headers[0][1]}") if headers else ("Origin", "http://localhost")
        assert socket_status(served, *headers, origin) in (400, 403), headers


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(word) for word in listed.stdout.split()]


def is_running(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


@pytest.mark.skipif(sys.platform == "darwin", reason="ps names parents differently")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_dashboard_takes_its_server_with_it(lake, number):
    with command("dashboard", "--no-browser", "--lake", str(lake.path)) as (process, port):
        servers = children(process.pid)
        assert servers and status(port, "/_stcore/health", ("Host", "localhost"))[0] == 200
        os.kill(process.pid, number)
        until = time.monotonic() + 20
        while any(map(is_running, servers)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(is_running, servers))


@pytest.mark.parametrize("name", ["http://x", "a b", "x:80", "", "*", "a/b", "x\r\nEvil: 1"])
def test_what_is_no_host_name_is_refused(name):
    with pytest.raises(UsageError, match="no host name"):
        Hosts.of(name)


def test_a_wrong_name_is_a_mistake_of_the_command_line(lake):
    result = subprocess.run(
        [LAKE, "dashboard", "--allow-host", "http://x", "--lake", str(lake.path)], capture_output=True, text=True
    )
    assert result.returncode == 2 and "Traceback" not in result.stderr and "no host name" in result.stderr
    assert json.dumps(result.stdout) == '""'
