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
    EXACT,
    NO_ANSWER,
    NO_NUMBER,
    NOT_A_NUMBER,
    NOTHING_SAID,
    UNREADABLE,
    Options,
    canonical,
    grade,
    last_box,
    parse_grader,
    read_number,
    read_options,
    solution_method,
)
from tracelake.lake.errors import UsageError


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
        # Text answers stand as whole words at the end of the last sentence, or after `answer is`.
        ("in 1999 Paris", "Paris"),
        ("It was 1889. The tower stands in Paris.", "Paris"),
        ("**Answer:** Paris.\nIt lies on the Seine.", "Paris"),
        ("The answer is Paris, which lies in France.", "Paris."),
        ("So the answer is the United  States because they won.", "united states"),
        ("Therefore it is (3, 4).", "(3,4)"),
        (r"So the value is $\dfrac{\sqrt{3}}{2}$.", r"\frac{\sqrt{3}}{2}"),
        ("I take (B).", "B"),
        # Notations of one value.
        (r"\boxed{\frac1{72}}", "1/72"),
        (r"\boxed{\frac{1}2}", "0.5"),
        (r"\boxed{-\tfrac 1 2}", "-0.5"),
        (r"\boxed{{18}}", "18"),
        (r"\boxed{{{18}}}", "18"),
        (r"\boxed{\quad 18\;}", "18"),
        (r"\boxed{\mathbf{18}}", "18"),
        (r"\boxed{\dfrac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}"),
        (r"\boxed{x^{2}+1}", "x^2 + 1"),
        (r"\boxed{y = 2x+3}", "2x + 3"),
        ("The total is 1 000 000.", "1000000"),
        ("It is 1\u202f000\u00a0000 $.", "1000000"),
        ("1,23,456", "123456"),
        ("1'000", "1000"),
        ("1\u2019000.5", "1000.5"),
        ("1.234.567 Euro", "1234567"),
        ("1_000", "1000"),
        ("3½", "3.5"),
        ("¾", "0.75"),
        ("3 1/2", "3.5"),
        ("\uff11\uff12\uff0e\uff15", "12.5"),
        ("\u0663\u0664", "34"),
        ("5 million", "5,000,000"),
        ("3万", "30000"),
        ("2^{10}", "1024"),
        ("10²", "100"),
        ("1.5×10⁻³", "0.0015"),
        ("It is 5 cm^2", "5"),
        ("41个苹果", "41"),
        ("It is 12,5.", "12.5"),
        (r"\boxed{0{,}500}", "1/2"),
        ("1 234 567,89", "1234567.89"),
        ("1.234,5 Euro", "1234.5"),
        ("the values are 1,2,3", "3"),
        ("We have (12)", "(12)"),
        ("2 and 1/2 cups", "2.5"),
        ("It is negative 5.", "-5"),
        (r"\boxed{\frac{\pi}{2}}", r"\frac\pi2"),
        ("Rs. 500", "500"),
        ("US$5", "5"),
        # References as people publish them.
        ("So the answer is 72.", "48/2 = <<48/2=24>>24.\n48+24 = <<48+24=72>>72.\n#### 72"),
        ("#### 1,234\n\nQuestion: 5 more?", "She has 1234.\n#### 1,234"),
        ("41", r"We get \boxed{41}, as 3 + 38."),
        ("41", "The answer is 41."),
        ("41", "Answer: 41 apples"),
        ("41", "$41"),
        ("41", "41."),
        ("41", "41 (apples)"),
        ("41", "9 + 3 = 12. 12 + 29 = 41."),
        ("41", "She has 41 apples."),
        ("41", "It was 3. In the end it is $41.00."),
        ("Paris", "The answer is Paris."),
        ("World War 2", "World War 2"),
        ("x^2 + y^2 = 25", "x^2+y^2=25"),
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
        (r"\boxed{12,34}", "1234", "12.34", DIFFERENT),
        ("It is 0,5", "5", "0.5", DIFFERENT),
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
        ("Rome", "Paris", "Rome", DIFFERENT),
        (" \n", "Paris", None, NOTHING_SAID),
        ("It is Paris. I am sure.", "Paris", "I am sure", DIFFERENT),
        ("It is not Paris.", "Paris", "It is not Paris", DIFFERENT),
        ("The answer is London, not Paris.", "Paris", "London, not Paris", DIFFERENT),
        ("It is comparison", "Paris", "It is comparison", DIFFERENT),
        ("The answer is New York City.", "New York", "New York City", DIFFERENT),
        ("The total is 1 000.", "0", "1000", DIFFERENT),
        ("5 million", "5", "5000000", DIFFERENT),
        ("it is 10^3", "3", "1000", DIFFERENT),
        ("2020 300", "2020300", "300", DIFFERENT),
        ("5\n100", "5100", "100", DIFFERENT),
        ("7  100", "7100", "100", DIFFERENT),
        ("#### 41 is my answer, or 42", "41", "42", DIFFERENT),
        (r"\boxed{\frac{\sqrt{3}}{2}}", r"\frac{\sqrt{2}}{3}", r"\frac{\sqrt{3}}{2}", DIFFERENT),
        ("the 5th", "5", None, NO_NUMBER),
        ("25", "x^2 + y^2 = 25", "25", DIFFERENT),
        ("2", "World War 2", "2", DIFFERENT),
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


@pytest.mark.parametrize(
    "part",
    [
        r"\boxed{",
        "1 ",
        "9",
        "1,111",
        "{",
        "-",
        " ",
        r"\frac{1",
        "a ",
        "1/",
        "e1",
        "$",
        "111 ",
        "1,1",
        "1.111",
        "answer is ",
    ],
)
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


def test_graders_are_named_and_versioned() -> None:
    options = Options(("A", "B"), ("3", "4"))
    names = [
        (parse_grader(name).name(None), parse_grader(name).name(options)) for name in ("auto", "exact", "contains")
    ]
    assert names == [("exact/2", "choice/1"), ("exact/2", "exact/2"), ("contains/1", "contains/1")]
    assert parse_grader("choice").name(options) == "choice/1"
    assert parse_grader(r"regex:= (\d+)").name(None) == r"regex/1:= (\d+)"
    assert EXACT == "exact/2"


@pytest.mark.parametrize(
    ("grader", "completion", "answer", "predicted", "correct"),
    [
        ("contains", "Paris is the capital of France.", "paris", "paris", True),
        ("contains", "A comparison.", "Paris", None, False),
        ("contains", "First 1,234, then 5.", "1234", "1234", True),
        ("contains", "12345", "1234", None, False),
        ("contains", "It fell to -5 and then 7.", "5", None, False),
        (r"regex:total = (\S+)", "total = 4; total = 5 and 9", "#### 5", "5", True),
        (r"regex:total = (\S+)", "total = 4", "5", "4", False),
        (r"regex:(?<=is )\w+", "it is Rome", "rome", "Rome", True),
        (r"regex:^(\d+)$", "4\n5\nx", "5", "5", True),
        (r"regex:total = (\S+)", "the sum is 5", "5", None, False),
        ("exact", "the sum is 5", "5", "5", True),
    ],
)
def test_graders(grader: str, completion: str, answer: str, predicted: str | None, correct: bool) -> None:
    result = parse_grader(grader).grade(completion, answer)
    assert (result.predicted_answer, result.correct) == (predicted, correct)
    assert (result.reason is None) == correct


@pytest.mark.parametrize("name", ["exakt", "regex", "regex:", "regex:(", "exact:1", ""])
def test_graders_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="grader"):
        parse_grader(name)


FRUIT = Options(("A", "B", "C", "D"), ("red apples", "green apples", "42", r"\frac{1}{2}"))


@pytest.mark.parametrize(
    ("completion", "label"),
    [
        ("B", "B"),
        (" (b)", "B"),
        ("B. green apples, because they are green", "B"),
        ("B) 17", "B"),
        ("B\nBecause A is wrong.", "B"),
        (r"So \boxed{B}", "B"),
        (r"So \boxed{\text{(C)}}", "C"),
        ("The answer is (C), not (A).", "C"),
        ("Answer: **D**", "D"),
        ("The answer is option B.", "B"),
        ("A is wrong, and so is (D). I choose (C).", "C"),
        ("It must be B", "B"),
        ("It must be 42.", "C"),
        (r"\boxed{0.5}", "D"),
        ("They are green apples.", "B"),
        ("A good question.", None),
        ("It is 43", None),
        ("Apples", None),
        ("", None),
    ],
)
def test_choices(completion: str, label: str | None) -> None:
    result = parse_grader("auto").grade(completion, "B", FRUIT)
    assert (result.predicted_answer, result.correct) == (label, label == "B"), result


@pytest.mark.parametrize(
    ("answer", "label"),
    [("B", "B"), ("(b)", "B"), ("B.", "B"), ("green apples", "B"), ("1", "B"), ("1.0", "B"), ("0.5", "D"),
     ("42.0", "C"), ("E", None), ("4", None), ("-1", None), ("apples", None)],
)  # fmt: skip
def test_references_name_an_option(answer: str, label: str | None) -> None:
    assert FRUIT.expected(answer) == label


def test_a_number_that_is_an_index_and_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match="text of option A and the index of option B"):
        Options(("A", "B"), ("1", "2")).expected("1")


@pytest.mark.parametrize(
    "published",
    [
        ["3", "4"],
        ("3", 4),
        ["A)3", "B) 4"],
        ["(A) 3", "(B) 4"],
        {"label": ["A", "B"], "text": ["3", "4"]},
        {"A": "3", "B": "4"},
        '["3", "4"]',
    ],
)
def test_options_as_people_publish_them(published: object) -> None:
    assert read_options(published) == Options(("A", "B"), ("3", "4"))


@pytest.mark.parametrize(
    "wrong", ["3 or 4", 5, ["3"], [["3"], ["4"]], {"label": ["A"], "text": ["3", "4"]}, ["x"] * 27]
)
def test_what_is_no_list_of_options_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        read_options(wrong)
