"""Starts the dashboard: Streamlit in a process of its own, on the loopback address, with a home folder that goes away.

The folder keeps Streamlit from writing to the user's home and from reading settings there that would open the server.
"""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...lake.errors import LakeError, NotFoundError, UsageError
from ..charts.theme import THEMES
from ..hosts import Hosts
from .doors import VARIABLE

HOST = "127.0.0.1"
START_SECONDS = 60
_SERVING = Path(__file__).with_name("serving.py")
_OPTIONS = {
    "server.address": HOST,
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "browser.serverAddress": HOST,
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "global.developmentMode": "false",
}
_SURFACES = {"light": "#f5f6f8", "dark": "#1b2129"}


def serve(
    lake: Path,
    *,
    port: int = 0,
    open_browser: bool = True,
    say: Callable[[str], None] = print,
    allow_hosts: Sequence[str] = (),
) -> None:
    """Serve the lake's dashboard until the process is interrupted or ended; `say` gets the address."""
    for name in ("SIGTERM", "SIGHUP"):  # the server must not outlive the command
        if hasattr(signal, name) and threading.current_thread() is threading.main_thread():
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    with running(lake, port=port, allow_hosts=allow_hosts) as (address, process):
        say(address)
        if open_browser:
            webbrowser.open(address)
        process.wait()


@contextmanager
def running(
    lake: Path, *, port: int = 0, allow_hosts: Sequence[str] = ()
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The dashboard's address and process, once it answers; it ends with the block.

    NotFoundError without Streamlit, UsageError for a port that cannot be had.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise NotFoundError("The dashboard needs Streamlit, which is not installed: pip install 'tracelake[dashboard]'")
    allowed = {VARIABLE: " ".join(Hosts.of(*allow_hosts).names)}
    port = _free_port(port)
    with tempfile.TemporaryDirectory(prefix="tracelake-dashboard-") as home, open(Path(home, "said"), "w+b") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", str(_SERVING), *_flags(port), *_origins(allow_hosts)],
            env=os.environ | {"TRACELAKE_LAKE": str(lake), "HOME": home, "USERPROFILE": home, **_caches(), **allowed},
            cwd=home,
            stdin=subprocess.PIPE,  # never written to: it closes with this process, and the server ends
            stdout=said,
            stderr=said,
        )
        try:
            address = f"http://{HOST}:{port}"
            _wait_until_ready(address, process, Path(said.name))
            yield address, process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _caches() -> dict[str, str]:
    """The user's cache folder, which the home folder of the moment hides: what was checked once stays so."""
    return {"XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")}


def _flags(port: int) -> list[str]:
    options = {"server.port": str(port), **_OPTIONS}
    for name, theme in THEMES.items():
        # The page in the colours of the charts on it.
        options |= {
            f"theme.{name}.backgroundColor": theme.background,
            f"theme.{name}.secondaryBackgroundColor": _SURFACES[name],
            f"theme.{name}.textColor": theme.text,
            f"theme.{name}.primaryColor": theme.categories[0],
        }
    return [f"--{name}={value}" for name, value in options.items()]


def _origins(names: Sequence[str]) -> list[str]:
    """Streamlit checks origins too, after our doors, which allow none but the page's own."""
    return [f"--server.corsAllowedOrigins={scheme}://{name}" for name in names for scheme in ("http", "https")]


def _free_port(port: int) -> int:
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port {port}: a port is between 1 and 65535, or 0 for a free one.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(f"--port {port} cannot be had: {error.strerror}. Choose another, or 0.") from error
        return probe.getsockname()[1]


def _wait_until_ready(address: str, process: "subprocess.Popen[bytes]", said: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            text = said.read_text(errors="replace").strip()
            raise LakeError(f"The dashboard ended at its start. Streamlit said: {text[-1000:] or 'nothing'}")
        try:
            direct.open(f"{address}/_stcore/health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise LakeError(f"The dashboard did not answer at {address} within {START_SECONDS} s.")
