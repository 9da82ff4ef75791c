"""Small problem sets in the layouts they are published in, made of the bundled model's own problems."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracelake.collect.tinymath.problems import problems

PROBLEMS = list(problems("test", limit=6))


def worked(index: int) -> str:
    """A solution of one of the problems."""
    return PROBLEMS[index].solutions["direct"]


def json_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def gsm8k(folder: Path) -> Path:
    """As in openai/grade-school-math: a file of lines per split, calculations for a calculator between the words."""
    rows = [{"question": p.question, "answer": f"We get <<1+1=2>>{p.answer}.\n#### {p.answer}"} for p in PROBLEMS]
    json_lines(folder / "train.jsonl", rows[:4])
    json_lines(folder / "test.jsonl", rows[4:])
    return folder


def math(folder: Path) -> Path:
    """As in hendrycks/math: one JSON a problem, by split and subject; two levels, one of them unknown."""
    for i, problem in enumerate(PROBLEMS):
        subject = ("algebra", "geometry")[i % 2]
        path = folder / ("train" if i < 4 else "test") / subject / f"{i + 8}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        level = "Level ?" if i == 3 else f"Level {1 + i}"
        row = {"problem": problem.question, "level": level, "type": subject.title(), "solution": worked(i)}
        path.write_text(json.dumps(row))
    return folder


def mawps(folder: Path) -> Path:
    """As in garrethlee/MAWPS: Parquet, the reasoning and #### before the result."""
    rows = [{"question": p.question, "answer": f"x = {p.answer}\n#### {p.answer}.0"} for p in PROBLEMS]
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows[:4])
    parquet(folder / "data" / "test-00000-of-00001.parquet", rows[4:])
    return folder


def camel_math(folder: Path) -> Path:
    """As in camel-ai/math: one JSON a problem, a key with a semicolon, the solution as a message."""
    for i, problem in enumerate(PROBLEMS[:3]):
        path = folder / f"00{i + 1}_002_003.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"role_1": "Mathematician", "topic;": "Arithmetic", "sub_topic": "Sums", "message_1": problem.question}
        path.write_text(json.dumps(row | {"message_2": f"First 3 steps. So the sum is {problem.answer}."}))
    return folder
