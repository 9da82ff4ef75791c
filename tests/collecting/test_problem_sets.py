"""Problem sets in their published layouts: five things of each problem, and what does not fit refused by name."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import published_problems as published
import pytest
from published_problems import PROBLEMS, json_lines, parquet

import tracelake
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.inputs.grading import grade
from tracelake.collect.inputs.problem_sets import LAYOUTS, ProblemSet, remarks
from tracelake.collect.inputs.prompts import checked_source, open_source
from tracelake.collect.inputs.wording import TEMPLATES
from tracelake.commands.collecting.collect_run import run_collect
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError

QUESTIONS = [problem.question for problem in PROBLEMS]


def read(dataset: str, split: str, path: Path):
    return list(ProblemSet.open(dataset, split, str(path)))


def content_id(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", ["gsm8k", "math", "math_hard", "mawps", "camel_math"])
def test_questions_answers_and_ids_of_each_layout(name: str, tmp_path: Path) -> None:
    folder = getattr(published, name.removesuffix("_hard"))(tmp_path / "set")
    order = range(3) if name == "camel_math" else [0, 2, 1, 3] if name.startswith("math") else range(4)
    prompts = read(name, "train", folder)
    assert [prompt.text for prompt in prompts] == [QUESTIONS[i] for i in order]
    for prompt, i in zip(prompts, order, strict=True):
        assert prompt.item_id == f"{name}-{content_id(QUESTIONS[i])}" == f"{name}-{prompt.prompt_id}"
        assert prompt.answer is not None and grade(f"\\boxed{{{PROBLEMS[i].answer}}}", prompt.answer).correct
        assert not grade(f"\\boxed{{{PROBLEMS[i].answer}1}}", prompt.answer).correct
        assert PROBLEMS[i].answer in prompt.metadata["oracle"]["dataset"] and "<<" not in str(prompt.metadata)
    if name != "camel_math":
        assert {prompt.text for prompt in read(name, "test", folder)} == set(QUESTIONS[4:])


def test_levels_and_topics(tmp_path: Path) -> None:
    prompts = {p.text: p for p in read("math", "train", published.math(tmp_path / "m"))}
    levels = [prompts[QUESTIONS[i]].metadata.get("level") for i in range(4)]
    assert levels == [1, 2, 3, None]
    assert [prompts[QUESTIONS[i]].metadata["type"] for i in (0, 1)] == ["Algebra", "Geometry"]
    camel = read("camel_math", "train", published.camel_math(tmp_path / "c"))
    assert {(p.metadata["topic"], p.metadata["sub_topic"]) for p in camel} == {("Arithmetic", "Sums")}


def test_files_of_one_problem_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    published.math(tmp_path / "set")
    files = [p.text for p in read("math", "train", tmp_path / "set")]
    assert files.index(QUESTIONS[0]) < files.index(QUESTIONS[2])  # 8.json before 10.json


def test_other_layouts_of_mawps(tmp_path: Path) -> None:
    first = {"iIndex": 1, "sQuestion": "Joan has 4 and 5. How many?", "lEquations": ["x=4+5"], "lSolutions": [9.0]}
    (tmp_path / "mawps.json").write_text(json.dumps([first]))
    assert [(p.text, p.answer) for p in read("mawps", "train", tmp_path / "mawps.json")] == [(first["sQuestion"], "9")]
    csv = 'Question,Numbers,Equation,Answer\n"Joan has N_00 and N_01 . How many ?",4.0 2.5,+ N_00 N_01,6.5\n'
    (tmp_path / "train.csv").write_text(csv)
    assert [(p.text, p.answer) for p in read("mawps", "train", tmp_path / "train.csv")] == [
        ("Joan has 4 and 2.5 . How many ?", "6.5")
    ]


def test_duplicates_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"question": QUESTIONS[i], "answer": f"#### {n}"} for i, n in ((0, 1), (1, 2), (0, 1), (0, 7), (2, 3))]
    json_lines(tmp_path / "train.jsonl", rows)
    source = ProblemSet.open("gsm8k", "train", str(tmp_path / "train.jsonl"))
    assert [p.answer for p in source] == ["1", "2", "3"]
    about = source.describe()
    assert (about["n_problems"], about["n_duplicates"], about["n_conflicting"]) == (3, 2, 1)
    assert list(remarks(about)) == [
        "gsm8k:train: 2 problems have the question of an earlier one, 1 of them with another answer, and are left out."
    ]


def test_camel_solutions_without_a_number_are_not_graded(tmp_path: Path) -> None:
    row = {"message_1": "Prove it.", "message_2": "It follows."}
    (tmp_path / "1.json").write_text(json.dumps(row))
    with pytest.raises(ConfigError, match="None of the 1 problems of camel_math:train has an answer"):
        read("camel_math", "train", tmp_path)
    (tmp_path / "2.json").write_text(json.dumps({"message_1": "1+1?", "message_2": "It is 2. \\boxed{2}"}))
    source = ProblemSet.open("camel_math", "train", str(tmp_path))
    assert [p.answer for p in source] == [None, "2"]
    assert "1 problems have no answer" in next(remarks(source.describe()))


def refused(match: str, error: type[Exception], call: Callable[[], object]) -> None:
    with pytest.raises(error, match=match):
        call()


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    folder = published.mawps(tmp_path / "mawps")
    refused("splits? 'tset'.* train, test|train, test", NotFoundError, lambda: read("mawps", "tset", folder))
    refused("no file or folder", NotFoundError, lambda: read("mawps", "train", tmp_path / "none"))
    file = folder / "data" / "test-00000-of-00001.parquet"
    refused("called after the split test, but train is asked", UsageError, lambda: read("mawps", "train", file))
    refused("has no split 'tset'. Did you mean 'test'", NotFoundError, lambda: ProblemSet.open("mawps", "tset", None))
    json_lines(tmp_path / "train.jsonl", [{"question": "q", "answer": "no result"}])
    refused(
        "train.jsonl, line 1 is no problem of gsm8k:train: .*####.*fields are question, answer",
        UsageError, lambda: read("gsm8k", "train", tmp_path / "train.jsonl"),
    )  # fmt: skip
    parquet(tmp_path / "no" / "train.parquet", [{"question": "q", "other": "x"}])
    refused("is no problem of mawps:train", UsageError, lambda: read("mawps", "train", tmp_path / "no"))
    (tmp_path / "words.txt").write_text("x")
    refused("not text", UsageError, lambda: read("mawps", "train", tmp_path / "words.txt"))

    def source(**settings):
        return lambda: checked_source(CollectConfig(**settings))

    refused("--dataset-path needs --dataset", UsageError, source(dataset_path=str(folder), prompts="x"))
    refused("'mawsp' is none. Did you mean 'mawps'", UsageError, source(dataset="mawsp:train", dataset_path="x"))
    refused("mawps has no subsets here; write mawps:train", UsageError, source(dataset="mawps:a:train"))


def test_templates(tmp_path: Path) -> None:
    folder = str(published.mawps(tmp_path / "set"))
    (tmp_path / "t.txt").write_text("Q: {question} {x}\nA:\n")
    for name, text in [*TEMPLATES.items(), (str(tmp_path / "t.txt"), "Q: {question} {x}\nA:")]:
        config = CollectConfig(dataset="mawps:train", dataset_path=folder, prompt_template=name)
        prompt = next(iter(open_source(config)))
        assert prompt.wording == text.replace("{question}", QUESTIONS[0])
        assert prompt.text == QUESTIONS[0] and prompt.prompt_id == content_id(QUESTIONS[0])
        assert open_source(config).describe()["prompt_template"] == text
    (tmp_path / "bad.txt").write_text("Solve {problem}")
    bad = CollectConfig(dataset="tinymath", prompt_template=str(tmp_path / "bad.txt"))
    refused(r"has no \{question\}", UsageError, lambda: open_source(bad))
    unknown = CollectConfig(dataset="tinymath", prompt_template="sampling_geometri")
    refused("Did you mean 'sampling_geometry'", NotFoundError, lambda: open_source(unknown))
    json_lines(tmp_path / "m.jsonl", [{"messages": [{"role": "user", "content": "x"}]}])
    chat = CollectConfig(prompts=str(tmp_path / "m.jsonl"), prompt_template="question_answer")
    refused("has messages, and --prompt-template takes texts", UsageError, lambda: list(open_source(chat)))


def test_a_run_over_a_local_set_is_graded_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published.math(tmp_path / "set")
    json_path = folder / "train" / "algebra" / "99.json"
    json_path.write_text((folder / "train" / "algebra" / "8.json").read_text())  # the first problem again
    settings = {
        "dataset": "math:train", "dataset_path": str(folder), "limit": 3, "prompt_template": "question_answer",
        "chat": "off", "max_new_tokens": 100, "keep": ["tokens"],
    }  # fmt: skip
    run = run_collect(tmp_path / "lake", settings)
    said = capsys.readouterr().err
    lake = tracelake.open(tmp_path / "lake")
    rows = lake.sql("select * from sequences order by sequence_id").rows(named=True)
    assert [row["prompt"] for row in rows] == [QUESTIONS[0], QUESTIONS[2], QUESTIONS[1]]
    assert rows[0]["rendered_prompt"] == f"Question: {QUESTIONS[0]}\nAnswer:"
    assert {row["dataset"] for row in rows} == {"math"} and {row["split"] for row in rows} == {"train"}
    assert [row["prompt_id"] for row in rows] == [content_id(row["prompt"]) for row in rows]
    graded = [grade(row["completion"], PROBLEMS[i].answer) for row, i in zip(rows, (0, 2, 1), strict=True)]
    assert [row["correct"] for row in rows] == [grade.correct for grade in graded]
    assert [row["label_reason"] for row in rows] == [grade.reason for grade in graded]
    assert {row["grader"] for row in rows} == {"exact/2"}
    right = sum(grade.correct for grade in graded)
    unreadable = sum(grade.predicted_answer is None for grade in graded)
    assert f"Answers: {right} right, {3 - right - unreadable} wrong, {unreadable} unreadable of 3" in said
    assert f"level 1: {int(graded[0].correct)} of 1" in said
    assert "1 problems have the question of an earlier one and are left out" in said
    assert Lake.open(tmp_path / "lake").run_json(str(run))["source"]["n_duplicates"] == 1


@pytest.mark.network
@pytest.mark.parametrize("name", list(LAYOUTS))
def test_the_sets_of_the_hub(name: str) -> None:
    source = ProblemSet.open(name, "train", None)
    prompt = next(iter(source))
    assert prompt.text and prompt.metadata and source.describe()["n_problems"] > 500
