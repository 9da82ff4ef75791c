"""`lake runs` told from the rows that Python has is what SQL tells through Arrow."""

import io
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import tracelake
from tracelake.queries.results.cells import timestamp_text
from tracelake.queries.results.formats import FORMATS, write
from tracelake.queries.results.rows import Rows
from tracelake.queries.run_list import COLUMNS, _moment_text, run_list, typed_run_list


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator["tracelake.OpenLake"]:
    """Runs that are complete, failed, interrupted, running and removed; with and without a tag and a time."""
    lake = tracelake.OpenLake.create(tmp_path_factory.mktemp("listed") / "lake")
    for number, name in enumerate(("done", "failed", "stopped", "gone", "odd")):
        about = {"kind": "generate", "tag": None if number % 2 else f"t {number}", "model": {"name": 'a "model"'}}
        times = {"created_at": None} if name == "odd" else {}
        with lake.start_run(f"{name}-run", about | times) as run:
            with run.segment(0, (0, 1)) as segment:
                segment.append("sequences", {"sequence_id": [0], "prompt": "p"})
                segment.count(n_sequences=1, n_tokens=10 + number)
            if name in ("done", "gone"):
                run.finish()
            if name == "failed":
                run.finish(status="failed", error="no, memory\nis left")
    lake.remove("gone-run", dry_run=False)
    running = lake.start_run("running-run", {"created_at": "2026-01-02T03:04:05Z"})
    yield lake
    running.close()


def _told(rows: Rows, form: str) -> bytes:
    stream = io.BytesIO()
    write(rows, form, stream)
    return stream.getvalue()


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"parquet"}))
def test_runs_are_told_as_sql_tells_them(lake: "tracelake.OpenLake", form: str) -> None:
    plain, typed = run_list(lake), typed_run_list(lake)
    assert plain.column_names == typed.column_names == list(COLUMNS)
    assert plain.num_rows == typed.num_rows == 6
    assert {row[3] for row in plain.values} == {"complete", "failed", "interrupted", "running", "removed"}
    assert _told(plain, form) == _told(typed, form)


def test_the_command_prints_the_list_and_files_keep_types(
    lake: "tracelake.OpenLake", tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    import polars as pl

    from tracelake.commands.ask import runs

    runs(form="csv", lake=Path(lake.path))
    assert capsysbinary.readouterr().out == _told(typed_run_list(lake), "csv")
    runs(as_json=True, lake=Path(lake.path))
    assert capsysbinary.readouterr().out == _told(typed_run_list(lake), "json")
    runs(output=tmp_path / "runs.parquet", lake=Path(lake.path))
    frame = pl.read_parquet(tmp_path / "runs.parquet")
    assert frame.height == 6 and isinstance(frame["created_at"].dtype, pl.Datetime)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Pacific/Kiritimati"])
def test_moments_are_local_times_with_their_offset(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        for month in range(12):
            for fraction in (0, 1, 61_000, 500_000, 999_999):
                moment = datetime(2026, 1, 15, 23, 30, tzinfo=UTC) + timedelta(days=30 * month, microseconds=fraction)
                count = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
                assert _moment_text(moment) == timestamp_text(count, "us", zone)
    finally:
        monkeypatch.undo()
        time.tzset()
