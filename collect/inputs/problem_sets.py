r"""Problem sets with reference answers (gsm8k, math, math_hard, mawps, camel_math) as they are published.

Each is read from a local file or folder, or from the Hugging Face hub, into the same five things: question, answer,
oracle solution, level, split. A question that came before is left out and counted. Knows no tokenizer.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ...lake.errors import ConfigError, NotFoundError, UsageError, did_you_mean
from ...lake.values import Json, JsonView
from .fields import Prompt, prompt_text
from .grading.notation import clean, last_box
from .grading.numbers import last_number
from .grading.words import after_hashes
from .hub_datasets import open_dataset
from .prompt_files import FORMATS, PromptBytes, rows_of

Row = Mapping[str, Any]
CALCULATION = re.compile(r"<<[^<>]*>>")
"""What gsm8k writes for a calculator between the words of a solution."""
PLACEHOLDER = re.compile(r"N_(\d\d)")
"""A number of a MAWPS question, given apart from it."""


@dataclass(frozen=True)
class Problem:
    """One problem: `oracle` is its published solution, `level` its published difficulty."""

    question: str
    answer: str | None
    oracle: str | None = None
    level: int | None = None
    about: Json = field(default_factory=dict)

    @property
    def content_id(self) -> str:
        """First 16 hex digits of SHA-256 over the question: equal wherever the problem comes from."""
        return hashlib.sha256(self.question.encode()).hexdigest()[:16]

    def as_prompt(self, dataset: str) -> Prompt:
        """The prompt, with what the experiments read in its metadata."""
        metadata: Json = dict(self.about)
        if self.level is not None:
            metadata["level"] = self.level
        if self.oracle:
            metadata["oracle"] = {"dataset": self.oracle}
        return Prompt(self.question, f"{dataset}-{self.content_id}", answer=self.answer, metadata=metadata or None)


def _text(row: Row, *names: str) -> str | None:
    """The first of these fields that says something, as text."""
    for name in names:
        value = row.get(name)
        value = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
        if value is not None and not isinstance(value, list | tuple | dict) and str(value).strip():
            return str(value).strip()
    return None


def _gsm8k(row: Row) -> Problem | None:
    question, solution = _text(row, "question"), _text(row, "answer")
    answer = after_hashes(solution) if solution else None
    if question is None or solution is None or not answer:
        return None
    return Problem(question, answer.strip(), CALCULATION.sub("", solution))


def _math(row: Row) -> Problem | None:
    question, solution = _text(row, "problem"), _text(row, "solution")
    answer = (last_box(solution) if solution else None) or _text(row, "answer")
    if question is None or answer is None:
        return None
    level = re.search(r"\d", str(row.get("level") or ""))
    subject = _text(row, "type", "subject")
    return Problem(question, answer, solution, int(level[0]) if level else None, {"type": subject} if subject else {})


def _mawps(row: Row) -> Problem | None:
    question = _text(row, "question", "Question", "sQuestion")
    stated = _text(row, "answer", "Answer", "lSolutions", "result")
    if question is None or stated is None:
        return None
    numbers = (_text(row, "Numbers") or "").split()
    if PLACEHOLDER.search(question):
        if max(int(place) for place in PLACEHOLDER.findall(question)) >= len(numbers):
            return None
        question = PLACEHOLDER.sub(lambda match: _short(numbers[int(match[1])]), question)
    behind = after_hashes(stated)
    return Problem(question, behind.strip() if behind else _short(stated), stated if behind else None)


def _camel_math(row: Row) -> Problem | None:
    question, solution = _text(row, "message_1"), _text(row, "message_2")
    if question is None or solution is None:
        return None
    number = last_number(clean(solution))
    answer = last_box(solution) or (None if number is None else number[0].strip())
    topics = {"topic": _text(row, "topic;", "topic"), "sub_topic": _text(row, "sub_topic")}
    return Problem(question, answer, solution, None, {name: text for name, text in topics.items() if text})


def _short(number: str) -> str:
    """`5.0` as `5`: a table of floats holds the whole numbers of questions and answers."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", number)


@dataclass(frozen=True)
class Layout:
    """How one problem set is published: its fields, its splits, its place on the hub (one subset or several)."""

    read: Callable[[Row], Problem | None]
    wants: str
    hub: str
    subsets: tuple[str | None, ...] = (None,)
    splits: tuple[str, ...] = ("train", "test")


SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip
LAYOUTS = {
    "gsm8k": Layout(_gsm8k, "`question`, and `answer` with #### before the result", "openai/gsm8k", ("main",)),
    "math": Layout(_math, "`problem`, and `solution` with a \\boxed{}", "EleutherAI/hendrycks_math", SUBJECTS),
    "math_hard": Layout(_math, "`problem`, and `solution` with a \\boxed{}", "lighteval/MATH-Hard", ("default",)),
    "mawps": Layout(_mawps, "`question` and `answer` (or `sQuestion` and `lSolutions`)", "garrethlee/MAWPS"),
    "camel_math": Layout(_camel_math, "`message_1` and `message_2`", "camel-ai/math", splits=("train",)),
}


@dataclass(frozen=True)
class ProblemSet:
    """The problems of one split, read whole when they are first asked for: the largest set has 50,000."""

    dataset: str
    split: str
    path: str | None = None

    @classmethod
    def open(cls, dataset: str, split: str, path: str | None) -> "ProblemSet":
        """NotFoundError for a split that the set does not have."""
        known = LAYOUTS[dataset].splits
        if path is None and split and split not in known:
            raise NotFoundError(f"{dataset} has no split {split!r}.{did_you_mean(split, known)}")
        return cls(dataset, split or known[-1], path)

    def describe(self) -> Json:
        about = {"kind": "problems", "dataset": self.dataset, "split": self.split, **self._read.counts}
        return about | {"sha256": self._read.sha256} | ({} if self.path is None else {"path": self.path})

    def __iter__(self) -> Iterator[Prompt]:
        return (problem.as_prompt(self.dataset) for problem in self._read.problems)

    @cached_property
    def _read(self) -> "ReadProblems":
        return ReadProblems.of(f"{self.dataset}:{self.split}", LAYOUTS[self.dataset], self._rows())

    def _rows(self) -> Iterator[tuple[str, object]]:
        layout = LAYOUTS[self.dataset]
        if self.path is None:
            return hub_rows(layout, self.split)
        return (row for file in files_of(Path(self.path), self.split, layout) for row in _file_rows(file))


@dataclass(frozen=True)
class ReadProblems:
    """The distinct problems in order, how many were left out, and the digest of what was read."""

    problems: tuple[Problem, ...]
    counts: dict[str, int]
    sha256: str

    @classmethod
    def of(cls, name: str, layout: Layout, rows: Iterable[tuple[str, object]]) -> "ReadProblems":
        """Read every row; UsageError with its place for one that is no problem, ConfigError if none has an answer."""
        known: dict[str, Problem] = {}
        counts = {"n_problems": 0, "n_duplicates": 0, "n_conflicting": 0, "n_without_answer": 0}
        for where, row in rows:
            problem = layout.read(row) if isinstance(row, Mapping) else None
            if problem is None:
                fields = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
                raise UsageError(f"{where} is no problem of {name}: it needs {layout.wants}; its fields are {fields}.")
            problem = replace(problem, question=prompt_text(problem.question, where))
            before = known.setdefault(problem.content_id, problem)
            counts["n_duplicates"] += before is not problem
            counts["n_conflicting"] += before.answer != problem.answer
        counts["n_problems"] = len(known)
        counts["n_without_answer"] = sum(problem.answer is None for problem in known.values())
        if not known:
            raise NotFoundError(f"{name} holds no problem.")
        if counts["n_without_answer"] == len(known):
            raise ConfigError(f"None of the {len(known):,} problems of {name} has an answer: nothing can be graded.")
        digest = hashlib.sha256()
        for problem in known.values():
            digest.update(json.dumps([problem.question, problem.answer, problem.oracle]).encode())
        return cls(tuple(known.values()), counts, digest.hexdigest())


def remarks(about: JsonView) -> Iterator[str]:
    """What is to be said of a problem set whose run.json entry is `about`: what was left out, what cannot be graded."""
    name = f"{about.get('dataset')}:{about.get('split')}"
    if dropped := about.get("n_duplicates"):
        other = about.get("n_conflicting")
        with_other = f", {other:,} of them with another answer," if other else ""
        yield f"{name}: {dropped:,} problems have the question of an earlier one{with_other} and are left out."
    if missing := about.get("n_without_answer"):
        yield f"{name}: {missing:,} problems have no answer that could be read: they are not graded."


def files_of(path: Path, split: str, layout: Layout) -> list[Path]:
    """The files of one split: the file itself, or those of a folder whose name, or folder, is that of the split."""
    if path.is_file():
        named = [other for other in ("train", "test", "validation") if _is_of(path.parent, path, other)]
        if named and split not in named:
            raise UsageError(
                f"{path} is called after the split {named[0]}, but {split} is asked for. Write :{named[0]}."
            )
        return [path]
    if not path.is_dir():
        raise NotFoundError(f"There is no file or folder {path}. Give the problem set as it was published.")
    files = sorted((file for file in path.rglob("*") if _is_data(file)), key=lambda file: _natural(path, file))
    chosen = [file for file in files if _is_of(path, file, split)]
    if not chosen and len(layout.splits) == 1 and split in layout.splits:
        chosen = files  # published without splits
    if chosen:
        return chosen
    splits = [name for name in ("train", "test", "validation") if any(_is_of(path, file, name) for file in files)]
    raise NotFoundError(
        f"{path} holds no files of the split {split!r} ({len(files):,} files). Splits there: "
        f"{', '.join(splits) or 'none'}. Files are called like {split}.jsonl, {split}-00000-of-00001.parquet or "
        f"{split}/..."
    )


def _is_data(file: Path) -> bool:
    return file.is_file() and file.suffix.lower() in FORMATS and file.suffix.lower() != ".txt"


def _is_of(folder: Path, file: Path, split: str) -> bool:
    *above, _ = file.relative_to(folder).parts
    return split in above or re.fullmatch(rf"{re.escape(split)}([-_.].*)?", file.stem) is not None


def _natural(folder: Path, file: Path) -> list[tuple[int, int, str]]:
    """The key by which 2.json comes before 10.json."""
    parts = re.split(r"(\d+)", file.relative_to(folder).as_posix())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _file_rows(file: Path) -> Iterator[tuple[str, object]]:
    form = FORMATS.get(file.suffix.lower())
    if form is None or form == "text":
        raise UsageError(f"{file}: problem sets are read from {', '.join(FORMATS)} files, not text.")
    return rows_of(PromptBytes(str(file), file), form)


def hub_rows(layout: Layout, split: str) -> Iterator[tuple[str, object]]:
    """The rows of the set on the Hugging Face hub, subset after subset."""
    advice = "Fetch it once and give its file or folder with --dataset-path."
    for subset in layout.subsets:
        name = ":".join(filter(None, (layout.hub, subset, split)))
        rows = open_dataset(layout.hub, subset, split, advice=advice)
        for i, row in enumerate(rows):
            yield f"{name}, row {i}", dict(row)
