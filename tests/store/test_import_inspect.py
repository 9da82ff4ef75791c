"""Logs of Inspect AI, written by its own package (extra `inspect`): samples, scores, log-probabilities."""

import math
import warnings
from pathlib import Path
from typing import Any

import pytest

import tracelake
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.interfaces.imports import ImportChoices, check_logs, import_logs
from tracelake.lake.exchange.interfaces.inspect_log import FORMAT, read_log
from tracelake.lake.lake import Lake

pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
"""The package leaves streams unclosed when an evaluation is over."""
pytest.importorskip("inspect_ai", reason="make test-inspect installs Inspect AI in an environment of its own")

WORDS = (" 4", "2", ".")
LOGPROBS = (-0.2, -1.5, -0.01)


def output(text: str, *, logprobs: bool, stop: str = "stop") -> Any:
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, Logprob, Logprobs, ModelOutput, ModelUsage
    from inspect_ai.model._model_output import TopLogprob

    content = [
        Logprob(
            token=word,
            logprob=value,
            bytes=list(word.encode()),
            top_logprobs=[
                TopLogprob(token=word, logprob=value, bytes=list(word.encode())),
                TopLogprob(token="?", logprob=-4.0, bytes=None),
            ],
        )
        for word, value in zip(WORDS, LOGPROBS, strict=True)
    ]
    choice = ChatCompletionChoice(
        message=ChatMessageAssistant(content=text),
        stop_reason=stop,
        logprobs=Logprobs(content=content) if logprobs else None,
    )
    usage = ModelUsage(input_tokens=6, output_tokens=3, total_tokens=9)
    return ModelOutput(model="mockllm/model", choices=[choice], usage=usage)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two logs of one task that really ran, `.eval` and `.json`: two samples, two epochs, a mock model's outputs."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, system_message

    folder, logs = tmp_path_factory.mktemp("inspect"), {}
    for form in ("eval", "json"):
        outputs = [output(" 42.", logprobs=True), output("no", logprobs=False, stop="max_tokens")] * 2
        task = Task(
            name="sums",
            dataset=[Sample(input="6 x 7?", target="42", id="a"), Sample(input="1 + 1?", target="2", id="b")],
            solver=[system_message("Be short."), generate()],
            scorer=includes(),
            config=GenerateConfig(temperature=0.5, seed=7, top_logprobs=2, logprobs=True, max_connections=1),
        )
        model = get_model("mockllm/model", custom_outputs=outputs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package and its own dependencies
            [log] = eval(
                task, model=model, epochs=2, log_dir=str(folder / form), log_format=form, display="none", max_samples=1
            )
        assert log.status == "success", log.error
        logs[form] = Path(log.location.removeprefix("file://"))
    return logs


def imported(folder: Path, log: Path) -> Any:
    lake = Lake.create(folder)
    choices = ImportChoices()
    import_logs(lake, check_logs([log], read_log, choices, FORMAT), read_log, choices, FORMAT)
    return tracelake.open(folder)


@pytest.mark.parametrize("form", ["eval", "json"])
def test_samples_scores_and_tokens(evaluated: dict[str, Path], tmp_path: Path, form: str) -> None:
    lake = imported(tmp_path / "lake", evaluated[form])
    rows = lake.sql("from sequences order by completion, sample").to_dicts()
    assert len(rows) == 4 and lake.verify("deep").ok and lake.runs[0]["model"] == "mockllm/model"
    with_tokens, without = rows[:2], rows[2:]
    assert {row["completion"] for row in with_tokens} == {" 42."} and {row["completion"] for row in without} == {"no"}
    for row in rows:
        target = {"a": "42", "b": "2"}[row["item_id"]]
        assert row["answer"] == target and row["correct"] == (target in row["completion"])
        assert row["grader"] == "inspect:includes" and row["temperature"] == 0.5 and row["seed"] == 7
        assert row["prompt"] in ("6 x 7?", "1 + 1?") and "Be short." in row["rendered_prompt"]
        assert row["n_prompt_tokens"] == 6 and row["n_generated_tokens"] == 3
    assert {row["finish_reason"] for row in without} == {"length"} and with_tokens[0]["finish_reason"] == "eos"
    assert {row["sample"] for row in rows} == {0, 1}
    tokens = lake.scan("token_steps").sort("sequence_id", "step").collect()
    assert tokens["token"].to_list() == [*WORDS] * 2 and tokens["position"].to_list() == [6, 7, 8] * 2
    assert tokens["logprob"].to_list() == pytest.approx([*LOGPROBS] * 2)
    assert tokens["surprisal_bits"].to_list() == pytest.approx([-p / math.log(2) for p in LOGPROBS] * 2)
    assert tokens["rank"].to_list() == [0] * 6 and tokens["char_end"].to_list() == [2, 3, 4] * 2
    scores = lake.sql("select value from imported_metrics where name = 'score.includes' order by sequence_id")
    assert sorted(scores["value"]) == sorted(float(row["correct"]) for row in rows)
    assert lake.query("finish_reasons", run="latest").height


def test_what_is_no_log_is_named(tmp_path: Path) -> None:
    for name, content in (("a.eval", b"PK nothing"), ("b.json", b"{}"), ("c.json", b"[" * 9)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=name):
            list(read_log(tmp_path / name))
    with pytest.raises(NotFoundError):
        list(read_log(tmp_path / "none.eval"))
