"""The grader `symbolic`: equal expressions are right however they are written, and nothing may hang."""

import os
from pathlib import Path

import pytest

from tracelake.collect.configuration.config import resolve_config
from tracelake.collect.inputs.grading import TIMED_OUT, grade, parse_grader, symbolic
from tracelake.collect.inputs.grading.symbolic import Child, grade_symbolic, symbolic_name
from tracelake.lake.errors import ConfigError

EQUAL = [
    (r"\sqrt{8}", r"2\sqrt{2}"), ("x+1", "1+x"), (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"), (r"(1, 2)", "(1,2)"),
    (r"\{1,2\}", r"\{2,1\}"), (r"\frac{x}{2}", "0.5x"), (r"2\pi r", r"r \cdot 2\pi"),
]  # fmt: skip
DIFFERENT = [("x+1", "x-1"), (r"\sqrt{2}", "2"), ("(1,2)", "(2,1)"), (r"\pi", "3.14"), ("[1,2]", "(1,2)")]


@pytest.fixture
def installed() -> None:
    pytest.importorskip("math_verify", reason="the extra `math` is not installed")


@pytest.mark.parametrize("answer, reference", EQUAL)
def test_equal_expressions_are_right(installed: None, answer: str, reference: str) -> None:
    graded = grade_symbolic(f"So it is \\boxed{{{answer}}}.", f"\\boxed{{{reference}}}")
    assert graded.correct and graded.reason is None


@pytest.mark.parametrize("answer, reference", DIFFERENT)
def test_other_expressions_are_wrong_for_the_reason_of_exact(installed: None, answer: str, reference: str) -> None:
    completion = f"So it is \\boxed{{{answer}}}."
    assert grade_symbolic(completion, reference) == grade(completion, reference)
    assert not grade_symbolic(completion, reference).correct


def test_numbers_and_unboxed_texts_need_no_child(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "_child", lambda: pytest.fail("math-verify was asked"))
    for completion, answer in [
        ("\\boxed{0.5}", "1/2"), ("\\boxed{41}", "42"), ("It is x+1.", "1+x"), ("nothing", "42"), ("\\boxed{}", "x"),
    ]:  # fmt: skip
        assert grade_symbolic(completion, answer) == grade(completion, answer)


def test_an_answer_that_takes_too_long_is_wrong_and_the_next_one_is_graded(installed: None) -> None:
    power = "123456789^{123456789}"  # a billion digits
    graded = grade_symbolic(f"\\boxed{{{power}}}", f"{power} + 1", limit_s=2)
    assert not graded.correct and graded.reason == TIMED_OUT
    assert grade_symbolic("\\boxed{x+1}", "1+x").correct


def test_the_child_ends_when_it_is_stopped(installed: None) -> None:
    child = Child()
    assert child.equal("x+1", "1+x", 60) is True
    process = child._process
    assert process is not None and process.poll() is None
    child.stop()
    assert process.poll() is not None


def test_its_name_has_the_version_of_what_compared(installed: None) -> None:
    assert parse_grader("symbolic").name(None) == symbolic_name()
    assert symbolic_name().startswith("symbolic/1+math-verify-0.")


def test_without_the_package_it_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(symbolic, "PACKAGE", "no-such-package")
    with pytest.raises(ConfigError, match=r"pip install 'tracelake\[math\]'"):
        resolve_config({"prompt": ["x"], "grader": "symbolic"}, environ={})
    assert os.listdir(tmp_path) == []
