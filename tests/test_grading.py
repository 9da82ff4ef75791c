"""The grader reads the last box, else the last number, and never calls the unreadable right."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracelake.collect.inputs.grading import (
    DIFFERENT,
    EMPTY_BOX,
    GRADER,
    NO_ANSWER,
    NO_NUMBER,
    NOT_A_NUMBER,
    UNREADABLE,
    canonical,
    grade,
    last_box,
    read_number,
    solution_method,
)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"At once: 47 + 36 = 83. \boxed{83}", "83"),
        (r"\boxed{1} then \boxed{83}", "83"),
        (r"\boxed{83} and then 12 more words, 99", "83"),
        (r"\boxed{5} but \boxed{6", "5"),
        (r"\boxed{\text{So }\boxed{5}}", "5"),
        (r"$\boxed {x = 5}$", "5"),
        (r"\boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{-\dfrac{3}{4}}", "-3/4"),
        (r"\boxed{\frac34}", "3/4"),
        (r"\boxed{1\frac{1}{2}}", "1.5"),
        (r"\boxed{6/8}", "3/4"),
        (r"\boxed{5.0}", "5"),
        (r"\boxed{.5}", "1/2"),
        (r"\boxed{1,234,567}", "1234567"),
        (r"\boxed{1{,}234}", "1234"),
        (r"\boxed{12\,345\ \text{cm}^2}", "12345"),
        (r"\boxed{\$5.00}", "5"),
        (r"\boxed{5\text{ apples}}", "5"),
        (r"\boxed{5 km/h}", "5"),
        (r"\boxed{12cm}", "12"),
        (r"\boxed{50\%}", "50"),
        (r"\boxed{90^\circ}", "90"),
        (r"\boxed{\displaystyle 7}", "7"),
        (r"\boxed{1.5 \times 10^{3}}", "1500"),
        (r"\boxed{\{1, 2\}}", r"\{1,2\}"),
        (r"\boxed{x + 1}", "X+1"),
        ("the result is 5 apples.", "5"),
        ("it is -5", "-5"),
        ("it is \u22127.", "-7"),
        ("= - 5", "-5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("9 - 5", "5"),
        ("9-5", "5"),
        ("x-5", "5"),
        ("between 5\u201310", "10"),
        ("**5**", "5"),
        ("first 3, then 1,234.50 dollars", "1234.5"),
        ("it took 2 3/4 hours", "2.75"),
        ("on the 4th it was 12, on the 15th it was unknown", "12"),
        ("84 / 2 = 42", "42"),
        ("1e3", "1000"),
        ("Paris", "paris"),
        ("42", "42 apples"),
    ],
)
def test_right(completion: str, answer: str) -> None:
    result = grade(completion, answer)
    assert (result.correct, result.reason) == (True, None), result


@pytest.mark.parametrize(
    ("completion", "answer", "predicted", "reason"),
    [
        (r"\boxed{84}", "83", "84", DIFFERENT),
        (r"83 \boxed{84}", "83", "84", DIFFERENT),
        (r"\boxed{-83}", "83", "-83", DIFFERENT),
        (r"\boxed{0.5}", "50%", "0.5", DIFFERENT),
        (r"\boxed{12,34}", "1234", "12,34", NOT_A_NUMBER),
        (r"\boxed{}", "5", None, EMPTY_BOX),
        (r"5 \boxed{ }", "5", None, EMPTY_BOX),
        (r"\boxed{5x}", "5", "5x", NOT_A_NUMBER),
        (r"\boxed{5 or 6}", "5", "5 or 6", NOT_A_NUMBER),
        (r"\boxed{2 pi}", "2", "2 pi", NOT_A_NUMBER),
        (r"\boxed{x+1}", "x+2", "x+1", DIFFERENT),
        (r"\boxed{3/0}", "3", "3/0", NOT_A_NUMBER),
        ("", "5", None, NO_NUMBER),
        ("no idea", "5", None, NO_NUMBER),
        (r"\boxed{", "5", None, NO_NUMBER),
        ("Rome", "Paris", None, NO_NUMBER),
        ("in 1999 Paris", "Paris", "1999", DIFFERENT),
        ("the 5th", "5", None, NO_NUMBER),
        ("3/0", "3", None, UNREADABLE),
        ("1e999999999", "5", None, UNREADABLE),
        ("9" * 5000, "5", None, UNREADABLE),
        ("5", "", None, NO_ANSWER),
        ("", "", None, NO_ANSWER),
        (r"\boxed{}", "  ", None, NO_ANSWER),
    ],
)
def test_wrong_has_a_reason(completion: str, answer: str, predicted: str | None, reason: str) -> None:
    result = grade(completion, answer)
    assert (result.predicted_answer, result.correct, result.reason) == (predicted, False, reason)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{a{b}c}", "a{b}c"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"} \boxed{a}", "a"),
        (r"{ \boxed{a}", "a"),
        (r"\boxed{a{b}", None),
        (r"\boxed a", None),
        (r"\fbox{a}", None),
    ],
)
def test_last_box_balances_braces(text: str, content: str | None) -> None:
    assert last_box(text) == content


@given(st.fractions())
def test_canonical_is_read_back_exactly(value: Fraction) -> None:
    assert read_number(canonical(value)) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 4))
def test_forms_of_one_integer_are_equal(value: int, zeros: int) -> None:
    for form in (f"{value:,}", f"{value}.{'0' * zeros}", f"${value}", f"{value} apples", f"{2 * value}/2"):
        assert grade(rf"\boxed{{{form}}}", str(value)).correct, form
        assert not grade(rf"\boxed{{{form}}}", str(value + 1)).correct, form


@given(st.text(alphabet="0123456789 -+/.,{}\\$%eEx=abot\u2212", max_size=60), st.text(max_size=5))
def test_a_reason_is_given_if_and_only_if_wrong(completion: str, answer: str) -> None:
    for text in (completion, rf"\boxed{{{completion}}}"):
        result = grade(text, answer)
        assert (result.reason is None) == result.correct
        assert result.predicted_answer is not None or not result.correct


@pytest.mark.parametrize("part", [r"\boxed{", "1 ", "9", "1,111", "{", "-", " ", r"\frac{1", "a ", "1/", "e1", "$"])
def test_long_odd_texts_are_graded_in_linear_time(part: str) -> None:
    # Quadratic time would need minutes here: the test then fails by never ending.
    text = part * (200_000 // len(part))
    for completion in (text, rf"\boxed{{{text}}}", rf"\boxed{{5 {text}5}}"):
        assert not grade(completion, "6").correct


@pytest.mark.parametrize(
    ("completion", "method"),
    [
        (r" At once: 47 + 36 = 83. \boxed{83}", "direct"),
        (r"Split: 40 + 30 = 70; 7 + 6 = 13; 70 + 13 = 83. \boxed{83}", "split"),
        ("Split: 40 - 30", "split"),
        ("Split: the bill", None),
        ("47 + 36 = 83", None),
        ("", None),
    ],
)
def test_solution_method(completion: str, method: str | None) -> None:
    assert solution_method(completion) == method


def test_grading_loads_no_model_library() -> None:
    module = "tracelake.collect.inputs.grading"
    script = f"import sys, {module}; sys.exit(int(bool({{'torch', 'transformers'}} & set(sys.modules))))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_grader_is_named_and_versioned() -> None:
    assert GRADER == "boxed-or-last-number/1"
