"""Arithmetic word problems with solutions by two methods; knows nothing of models or tokens.

`direct` computes at once, `split` computes tens and units apart and joins them. Level 1 is one step with two-digit
numbers, level 2 two steps with two-digit numbers, level 3 one step with three-digit numbers. Everything is a function
of the seed: draws use `random.Random(str).random()`, whose sequence Python promises to keep, and never `hash`.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, cycle, islice
from typing import Literal, TypeVar

Method = Literal["direct", "split"]
Split = Literal["train", "test"]
Sign = Literal["+", "-"]
Step = tuple[Sign, int]

LEVELS = (1, 2, 3)
METHODS: tuple[Method, Method] = ("direct", "split")
OPENINGS: dict[Method, str] = {"direct": "At once:", "split": "Split:"}
"""How a solution begins, by which its method is known."""
SIZES: dict[str, int] = {"train": 6000, "test": 600}
"""Problems per split when no limit is given, all three levels together."""
TEST_SHARE = 10
"""One question in this many belongs to the test split."""

NAMES = ("Tom", "Mia", "Ben", "Ana", "Sam", "Eva", "Leo", "Zoe", "Max", "Ida", "Kim", "Ali")
OBJECTS = ("apples", "books", "cards", "coins", "cups", "eggs", "nuts", "pens", "pins", "seeds", "shells", "stones")
PLACES = ("box", "bag", "jar", "shop", "room", "van")
EVENTS = {
    "+": ("buys {x} more", "finds {x} more", "wins {x} more", "gets {x} from {other}"),
    "-": ("sells {x}", "loses {x}", "drops {x}", "gives {x} to {other}"),
}
MOVES = {"+": "puts in {x} more", "-": "takes out {x}"}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Problem:
    """One word problem; `item_id` comes from the question's content."""

    item_id: str
    level: int
    question: str
    answer: str
    solutions: dict[Method, str]


def problems(
    split: Split, *, levels: Sequence[int] = LEVELS, limit: int | None = None, seed: int = 0
) -> Iterator[Problem]:
    """Yield distinct problems of one split, levels taking turns.

    A longer limit continues a shorter one, and a level's problems do not depend on the other levels asked for.
    Without a limit there are `SIZES[split] / 3` problems per level.
    """
    if not levels:
        raise ValueError("levels is empty: give at least one of 1, 2, 3")
    count = SIZES[check_split(split)] // len(LEVELS) * len(levels) if limit is None else limit
    streams = cycle([_distinct(stream(split, level, seed=seed)) for level in levels])
    return islice((next(source) for source in streams), count)


def stream(split: Split, level: int, *, seed: int) -> Iterator[Problem]:
    """Yield problems of one level without end; the same one may come again."""
    if level not in LEVELS:
        raise ValueError(f"unknown level {level!r}: the levels are 1, 2, 3")
    check_split(split)
    rng = random.Random(f"tinymath/{seed}/{level}")
    while True:
        problem = _draw(rng, level)
        if split_of(problem.question) == split:
            yield problem


def split_of(question: str) -> Split:
    """Return the split that a question belongs to, whatever the seed: a function of its SHA-256."""
    return "test" if int.from_bytes(sha256(question.encode()).digest()[:8]) % TEST_SHARE == 0 else "train"


def check_split(split: str) -> str:
    """Return the split's name, or raise if there is none of that name."""
    if split not in SIZES:
        raise ValueError(f"unknown split {split!r}: the splits are train, test")
    return split


def _distinct(source: Iterator[Problem]) -> Iterator[Problem]:
    seen: set[str] = set()
    for problem in source:
        if problem.item_id not in seen:
            seen.add(problem.item_id)
            yield problem


def _draw(rng: random.Random, level: int) -> Problem:
    low, high = (100, 999) if level == 3 else (10, 99)
    start, steps = _draw_steps(rng, 2 if level == 2 else 1, low, high)
    question = _pick(rng, (_owner, _place, _pair))(rng, start, steps)
    answer = str(start + sum(map(_signed, steps)))
    return Problem(
        item_id=f"tinymath-{level}-{sha256(question.encode()).hexdigest()[:12]}",
        level=level,
        question=question,
        answer=answer,
        solutions={
            "direct": f"{OPENINGS['direct']} {_direct(start, steps)}. \\boxed{{{answer}}}",
            "split": f"{OPENINGS['split']} {_split(start, steps)}. \\boxed{{{answer}}}",
        },
    )


def _draw_steps(rng: random.Random, n_steps: int, low: int, high: int) -> tuple[int, list[Step]]:
    """Draw a start and steps whose running total never falls below zero; both signs are equally frequent."""
    signs: list[Sign] = ["+" if rng.random() < 0.5 else "-" for _ in range(n_steps)]
    while True:
        start = _between(rng, low, high)
        steps: list[Step] = [(sign, _between(rng, low, high)) for sign in signs]
        if min(accumulate((_signed(step) for step in steps), initial=start)) >= 0:
            return start, steps


def _signed(step: Step) -> int:
    sign, value = step
    return value if sign == "+" else -value


def _owner(rng: random.Random, start: int, steps: Sequence[Step]) -> str:
    name, other = _two(rng, NAMES)
    thing = _pick(rng, OBJECTS)
    events = [_pick(rng, EVENTS[sign]).format(x=value, other=other) for sign, value in steps]
    return f"{name} has {start} {thing}. {name} {' and then '.join(events)}. How many {thing} does {name} have now?"


def _place(rng: random.Random, start: int, steps: Sequence[Step]) -> str:
    actors, place, thing = _two(rng, NAMES), _pick(rng, PLACES), _pick(rng, OBJECTS)
    moves = [f"{actor} {MOVES[sign].format(x=value)}" for actor, (sign, value) in zip(actors, steps, strict=False)]
    return (
        f"There are {start} {thing} in a {place}. {' and then '.join(moves)}. How many {thing} are in the {place} now?"
    )


def _pair(rng: random.Random, start: int, steps: Sequence[Step]) -> str:
    """Compare or join what two people have; a first event, if any, is the first person's."""
    name, other = _two(rng, NAMES)
    thing = _pick(rng, OBJECTS)
    *events, (last_sign, last) = steps
    told = "".join(f" {name} {_pick(rng, EVENTS[sign]).format(x=value, other='Dad')}." for sign, value in events)
    asked = f"{thing} do they have together" if last_sign == "+" else f"more {thing} does {name} have than {other}"
    return f"{name} has {start} {thing} and {other} has {last}.{told} How many {asked}?"


def _direct(start: int, steps: Sequence[Step]) -> str:
    """Return `47 + 36 - 18 = 65`: every step in one equation."""
    total = start + sum(map(_signed, steps))
    return f"{start}{''.join(f' {sign} {value}' for sign, value in steps)} = {total}"


def _split(start: int, steps: Sequence[Step]) -> str:
    """Return `40 + 30 = 70; 7 + 6 = 13; 70 + 13 = 83` for each step: tens, units, both together."""
    told, total = [], start
    for sign, value in steps:
        after = total + _signed((sign, value))
        units = total % 10 + _signed((sign, value % 10))
        tens = after - units
        told.append(
            f"{total // 10 * 10} {sign} {value // 10 * 10} = {tens}; {total % 10} {sign} {value % 10} = {units}; "
            f"{tens} {'-' if units < 0 else '+'} {abs(units)} = {after}"
        )
        total = after
    return ". ".join(told)


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _pick(rng: random.Random, choices: Sequence[_T]) -> _T:
    return choices[int(rng.random() * len(choices))]


def _two(rng: random.Random, choices: Sequence[_T]) -> tuple[_T, _T]:
    """Draw two different choices."""
    first = int(rng.random() * len(choices))
    second = int(rng.random() * (len(choices) - 1))
    return choices[first], choices[second + (second >= first)]
