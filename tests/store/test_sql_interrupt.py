"""Ctrl-C ends a statement, however its result is asked for, and the connection goes on."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracelake.lake import Lake
from tracelake.lake.sql.duck import Connection

ENDLESS = "SELECT count(*) FROM range(100_000_000_000) a, range(1_000_000) b"
WAYS: dict[str, Callable[[Connection], object]] = {
    "execute": lambda connection: connection.execute(ENDLESS),
    "rows": lambda connection: connection.rows(ENDLESS),
    "arrow": lambda connection: connection.arrow(ENDLESS),
    "sql": lambda connection: connection.sql(ENDLESS),
    "batches": lambda connection: list(connection.batches(ENDLESS)),
}


@pytest.fixture
def ctrl_c() -> Iterator[threading.Timer]:
    """Sends the signal of Ctrl-C to this process soon after it is started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    yield timer
    timer.cancel()
    timer.join()
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_ctrl_c_ends_a_statement(way: Callable[[Connection], object], tmp_path: Path, ctrl_c: threading.Timer) -> None:
    with Lake.create(tmp_path / "lake").connect() as connection:
        ctrl_c.start()
        with pytest.raises(KeyboardInterrupt):
            way(connection)
        assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_threads_beside_the_main_one_ask_too(tmp_path: Path) -> None:
    rows: list[object] = []
    with Lake.create(tmp_path / "lake").connect() as connection:
        thread = threading.Thread(target=lambda: rows.extend(connection.execute("SELECT 2").fetchall()))
        thread.start()
        thread.join()
    assert rows == [(2,)]
