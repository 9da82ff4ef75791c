"""A lake written by an earlier version of the store is read, verified and continued by this one.

`lakes/format-1` was written before the store had a seam (2026-11-26: tinymath, two prompts, one analysis), and
`lakes/format-1.json` is what that version answered. Neither is ever written again.
"""

import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from tracelake.analysis.paths.trajectory import Trajectory
from tracelake.analysis.question import ask
from tracelake.lake import TABLES, Lake

LAKES = Path(__file__).parents[1] / "lakes"
ANSWERED = json.loads((LAKES / "format-1.json").read_text())
RUN = "old-20261126-032058-822d"


@pytest.fixture
def old(tmp_path: Path) -> Lake:
    shutil.copytree(LAKES / "format-1", tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


@pytest.mark.parametrize("table", sorted(ANSWERED["sums"]))
def test_every_number_is_what_it_was(old: Lake, table: str) -> None:
    for name, wanted in ANSWERED["sums"][table].items():
        assert old.sql(f'select sum("{name}") from {table}').item() == pytest.approx(wanted, rel=1e-12), name
    files = sorted((old.path / "data" / table).rglob("*.parquet"))
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    assert old.sql(f"select count(*) from {table}").item() == rows == old.scan(table).select(pl.len()).collect().item()
    assert old.sql(f"from {table} limit 0").columns == TABLES[table].names


NEW = {"experiment_id": "None", "experiment_step": "None"}
"""Columns that came later."""


def test_the_row_of_its_run(old: Lake) -> None:
    [row] = old.runs()
    assert {name: str(value) for name, value in row.items()} == ANSWERED["run"] | NEW


@pytest.mark.parametrize("level", ["quick", "full", "deep"])
def test_it_verifies(old: Lake, level: str) -> None:
    report = old.verify(level)
    assert report.ok and report.notes == [] and report.files == ANSWERED["files"]


def test_its_analysis_is_found_and_its_run_goes_on(old: Lake) -> None:
    again = ask(old, "latest", Trajectory(site="resid_post", layer=0, umap="none"))
    assert not again.computed and again.analysis_id == ANSWERED["analysis_id"]
    forced = ask(old, "latest", Trajectory(site="resid_post", layer=0, umap="none"), force=True)
    assert forced.computed and forced.analysis_id == ANSWERED["analysis_id"]
    with old.resume_run(RUN) as run:
        assert run.finished and run.committed == {0, 1}
    assert old.sql("select count(*) from trajectories").item() == 10 and old.verify("deep").ok
    old.remove(RUN, dry_run=False, now=True)
    assert old.sql("select count(*) from token_steps").item() == 0 and not list(old.path.rglob("*.parquet"))
