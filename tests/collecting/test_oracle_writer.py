"""Oracle solutions that a service writes: over a real HTTP server, graded, within limits, none asked for twice."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import KEY, USAGE, JudgeServer, judge_server

import tracelake
from tracelake.collect.judge.oracles.oracle_run import Written
from tracelake.collect.tinymath import problems
from tracelake.facade.open_lake import OpenLake
from tracelake.lake.errors import ConfigError, StoppedError, UsageError

N = 4
PRICE = (10.0, 20.0)
SPENT = (USAGE["prompt_tokens"] * PRICE[0] + USAGE["completion_tokens"] * PRICE[1]) / 1e6
"""USD for one answer of the server."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """Solves the first problems of the test split; the second one wrongly."""
    monkeypatch.setenv("ORACLE_KEY", KEY)
    with judge_server() as running:
        for number, problem in zip(range(N), problems("test"), strict=False):
            right = problem.solutions["split"].strip()
            running.solutions[problem.question] = right if number != 1 else "It is \\boxed{-7}."
        yield running


@pytest.fixture
def lake(tmp_path: Path) -> OpenLake:
    tracelake.collect(
        str(tmp_path / "lake"), dataset="tinymath:test", limit=N, temperature=0, max_new_tokens=4, keep="tokens",
        device="cpu", tag="greedy",
    )  # fmt: skip
    return tracelake.open(str(tmp_path / "lake"))


def write(lake: OpenLake, server: JudgeServer, model: str = "solver", **more: Any) -> Written:
    options: dict[str, Any] = {"key_env": "ORACLE_KEY", "usd_per_million": PRICE, "max_usd": 10.0} | more
    return lake.write_oracles("greedy", model=model, base_url=server.base_url, **options)


def test_solutions_are_written_once_graded_and_read_as_oracles(lake: OpenLake, server: JudgeServer) -> None:
    done = write(lake, server)
    assert (done.n_asked, done.n_right, done.n_calls) == (N, N - 1, N) and server.calls["solver"] == N
    assert done.spent_usd == pytest.approx(N * SPENT)
    rows = lake.sql(
        "SELECT s.*, q.prompt FROM oracle_solutions s JOIN sequences q USING (run_id, prompt_id)"
    ).to_dicts()
    assert {row["prompt"]: row["solution"] for row in rows} == server.solutions
    graded = lake.sql("SELECT correct, reason FROM oracle_solutions").rows()
    assert sorted(graded) == [(False, "wrong: -7"), *[(True, None)] * (N - 1)]
    again = write(lake, server)
    assert (again.n_asked, again.n_stored, again.analysis_id) == (0, N, done.analysis_id)
    assert server.calls["solver"] == N
    tracelake.collect(
        lake.path, dataset="tinymath:test", limit=N, given="solutions:greedy", max_new_tokens=0, keep="tokens",
        device="cpu", tag="oracles",
    )  # fmt: skip
    read = lake.sql("SELECT prompt, completion, origin FROM sequences JOIN runs USING (run_id) WHERE tag = 'oracles'")
    right = {prompt: f" {text}" for prompt, text in server.solutions.items() if "-7" not in text}
    assert dict(read.select("prompt", "completion").iter_rows()) == right and set(read["origin"]) == {"oracle"}


def test_the_problem_is_data_and_the_key_is_in_no_file(lake: OpenLake, server: JudgeServer) -> None:
    write(lake, server)
    for body in server.bodies:
        system, user = (one["content"] for one in body["messages"])
        assert not any(problem in system for problem in server.solutions)
        assert user.startswith("<<<PROBLEM ") and body["max_tokens"] == 2048
    assert not [file for file in Path(lake.path).rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_a_limit_stops_and_the_same_call_goes_on(lake: OpenLake, server: JudgeServer) -> None:
    with pytest.raises(StoppedError, match="--max-calls 2"):
        write(lake, server, max_calls=2, concurrency=1)
    assert lake.sql("SELECT count(*) AS n FROM oracle_solutions")["n"][0] == 2
    done = write(lake, server)
    assert (done.n_stored, done.n_asked, server.calls["solver"]) == (2, 2, 4)


def test_a_solution_that_was_cut_is_none(lake: OpenLake, server: JudgeServer) -> None:
    done = write(lake, server, model="solver-cut")
    assert done.n_right == 0 and done.reasons == {"the solution was cut by its length": N}
    rows = lake.sql("SELECT solution, correct, reason FROM oracle_solutions").rows()
    assert set(rows) == {(None, None, "the solution was cut by its length")}


def test_no_key(lake: OpenLake, server: JudgeServer) -> None:
    with pytest.raises(ConfigError, match="NO_KEY holds no key"):
        write(lake, server, key_env="NO_KEY")
    assert not server.calls


def test_a_price_or_limit_that_cannot_be(lake: OpenLake, server: JudgeServer) -> None:
    for given, flag in (
        ({"usd_per_million": (-1.0, 2.0)}, "--usd-per-million"),
        ({"max_calls": 0}, "--max-calls"),
        ({"max_usd": math.nan}, "--max-usd"),
        ({"concurrency": 0}, "--concurrency"),
    ):
        with pytest.raises(UsageError, match=flag):
            write(lake, server, **given)
    assert not server.calls
