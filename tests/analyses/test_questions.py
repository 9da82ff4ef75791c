"""Questions: one file with a frozen dataclass is a verb, a method and a page; its options are checked by name."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

import pytest
from typer.testing import CliRunner

import tracelake
from tracelake.analysis import question
from tracelake.analysis.option import option
from tracelake.analysis.question import Evidence, Question, Reads, Rows
from tracelake.cli import app
from tracelake.commands.toolkit.outcome import outcome
from tracelake.lake import Lake
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.snapshot import Snapshot


@dataclass(frozen=True)
class Counted(Question):
    """How many sequences the runs have, times a factor."""

    name: ClassVar[str] = "counted"
    n_runs: ClassVar[tuple[int, int | None]] = (1, None)
    factor: float = option(1.0, "What the count is multiplied by.")
    least: int = option(0, "Least count.", flag="--at-least")
    unit: Literal["rows", "texts"] = option("rows", "What is counted.")
    only: tuple[int, ...] | None = option(None, "Only this sequence.")
    label: str | None = option(None, "A word of your own.")
    loud: bool = option(False, "Say it.")
    chosen: int = -1

    def resolve(self, snapshot: Snapshot) -> Self:
        return self

    def reads(self) -> Reads:
        return [("sequences", {})]

    def parameters(self, run_ids: Sequence[str]) -> dict[str, Any]:
        return dict(vars(self)) | {"runs": list(run_ids)}

    def compute(self, lake: Lake, runs: Sequence[Evidence]) -> Rows:
        count = sum(run.snapshot.runs[run.run_id].counters.get("n_sequences", 0) for run in runs)
        return Rows({}, round(count * self.factor), ["LOUD"] if self.loud else [])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("tracelake.analysis.counted")
    module.__dict__["Counted"] = Counted
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(question, "QUESTIONS", question.QUESTIONS | {"counted": "counted:Counted"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions") / "lake"
    lake = Lake.create(folder)
    for run_id, n_sequences in (("first", 2), ("second", 3)):
        with lake.start_run(run_id, {"tag": run_id, "kind": "read", "plan": {"segments": [[0, n_sequences]]}}) as run:
            with run.segment(0, (0, n_sequences)) as segment:
                segment.append("sequences", {"sequence_id": list(range(n_sequences)), "prompt": ["a"] * n_sequences})
                segment.count(n_sequences=n_sequences)
            run.finish()
    return folder


def counts(folder: Path) -> dict[str, int]:
    return dict(tracelake.open(folder).sql("select analysis_id, n_sequences from analyses").rows())


def asked(folder: Path, *arguments: str) -> Mapping[str, Any]:
    words = ["analyze", "counted", *arguments, "--json", "--lake", str(folder)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_question_is_a_verb_and_a_method(counted: None, folder: Path) -> None:
    listed = CliRunner().invoke(app, ["analyze", "--help"]).stdout
    assert "counted" in listed and "How many sequences" in listed
    words = ("first", "second", "--factor", "2", "--only", "0", "--only", "1", "--unit", "texts", "--at-least", "1")
    typed = asked(folder, *words, "--loud")
    lake = tracelake.open(folder)
    options = {"factor": 2, "only": [0, 1], "unit": "texts", "least": 1, "loud": True}
    called = lake.analyze("counted", ["first", "second"], **options)
    assert typed["computed"] and not called.computed and called.analysis_id == typed["analysis_id"]
    assert called.notices == ("LOUD",)
    assert typed["parameters"] == {
        "factor": 2.0, "least": 1, "unit": "texts", "only": [0, 1], "label": None, "loud": True, "chosen": -1,
        "runs": ["first", "second"],
    }  # fmt: skip
    assert counts(folder)[called.analysis_id] == 10
    assert asked(folder)["parameters"]["runs"] == ["second"] and asked(folder)["computed"] is False


def test_help_names_every_option_and_no_other_field(counted: None) -> None:
    text = CliRunner().invoke(app, ["analyze", "counted", "--help"]).stdout
    for named in ("--factor", "--at-least", "rows|texts", "--only", "--label", "--loud", "--force", "[RUN]..."):
        assert named in text
    assert "--chosen" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": "two"}, "--factor takes a number, not 'two'"),
        ({"least": 1.5}, "--at-least takes a whole number, not 1.5"),
        ({"least": True}, "--at-least takes a whole number, not True"),
        ({"unit": "text"}, "no --unit 'text'. Did you mean 'texts'"),
        ({"only": 3}, "--only takes several values"),
        ({"only": ["3"]}, "--only takes a whole number, not '3'"),
        ({"label": 3}, "--label takes a text"),
        ({"loud": "yes"}, "--loud takes true or false"),
        ({"factor": None}, "--factor takes a number, not None"),
        ({"chosen": 3}, "no option 'chosen'"),
        ({"lable": "x"}, "Did you mean 'label'"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(
    counted: None, folder: Path, options: dict[str, Any], message: str
) -> None:
    before = counts(folder)
    with pytest.raises(UsageError, match=message):
        tracelake.open(folder).analyze("counted", "first", **options)
    if "chosen" not in options and "lable" not in options:
        with pytest.raises(UsageError, match=message):
            question.ask(Lake.open(folder), "first", Counted(**options))
    assert counts(folder) == before


def test_unknown_analyses_and_runs(counted: None, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lake = tracelake.open(folder)
    with pytest.raises(NotFoundError, match="Did you mean 'counted'"):
        lake.analyze("count", "first")
    with pytest.raises(UsageError, match="trajectory is asked of one run, not of 2"):
        lake.analyze("trajectory", ["first", "second"])
    for words, code, said in (
        (["counted", "third"], 3, "third"),
        (["counted", "--unit", "text"], 2, "Did you mean 'texts'"),
        (["counter"], 2, "counter"),
    ):
        assert outcome(partial(app, ["analyze", *words, "--lake", str(folder)])) == code
        assert said in capsys.readouterr().err


def test_every_question_is_listed_under_its_own_name() -> None:
    for name in question.QUESTIONS:
        kind = question.question_kind(name)
        assert kind.name == name and (kind.__doc__ or "").strip()
