"""Imports beside each other: of one file only one succeeds, of different files all do."""

import json
import threading
from pathlib import Path

from corevital_reports import report, truth

from tracelake.lake import Lake
from tracelake.lake.errors import LakeError
from tracelake.lake.exchange.corevital.imports import Checked, ImportSettings, check_reports, import_reports


def checked(folder: Path, seed: int) -> list[Checked]:
    path = folder / f"report{seed}.json"
    path.write_text(json.dumps(report(truth(seed), "0.5")), encoding="utf-8")
    return check_reports([path], ImportSettings())


def at_once(lake: Lake, jobs: list[list[Checked]]) -> list[object]:
    """What became of each import, all started in the same moment."""
    outcomes: list[object] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def job(number: int) -> None:
        start.wait()
        try:
            outcomes[number] = import_reports(Lake.open(lake.path), jobs[number], ImportSettings())
        except LakeError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=job, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_two_imports_of_one_file_at_once(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    outcomes = at_once(lake, [checked(tmp_path, 1)] * 3)
    done = [one for one in outcomes if isinstance(one, list) and not one[0].already]
    assert len(done) == 1 and lake.sql("select count(*) from sequences").item() == 1
    for other in outcomes:
        said = isinstance(other, LakeError) and ("imported" in str(other) or "being written" in str(other))
        assert said or isinstance(other, list), other
    assert [row["status"] for row in lake.runs()] == ["complete"] and lake.verify("deep").ok


def test_imports_of_different_files_do_not_wait_for_each_other(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    outcomes = at_once(lake, [checked(tmp_path, seed) for seed in (1, 2, 3)])
    assert all(isinstance(one, list) for one in outcomes), outcomes
    assert lake.sql("select count(*) from sequences").item() == 3


def test_an_import_repeated_after_its_last_commit_is_complete(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    [first] = import_reports(lake, checked(tmp_path, 1), ImportSettings())
    [again] = import_reports(lake, checked(tmp_path, 1), ImportSettings())
    assert again.already and (again.run_id, again.n_tokens) == (first.run_id, first.n_tokens)
    assert len(lake.runs()) == 1
