"""Responses with log-probabilities: published layouts in, numbers against numpy, refusals that name the place."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tracelake
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.interfaces.completion import (
    ScoredToken,
    character_ends,
    least_entropy,
)
from tracelake.lake.exchange.interfaces.imports import ImportChoices, Responses, check_logs, import_logs
from tracelake.lake.lake import Lake

WORDS = ["Hé", " is", " 4", "🙂", "\n", ","]
PIECES = ["🙂".encode()[:2], "🙂".encode()[2:]]
"""A character in two tokens."""


def distributions(seed: int, n: int, vocabulary: int = 40) -> np.ndarray:
    """Log-probabilities `[step, token]` of whole distributions, of which an interface tells the best only."""
    logits = np.random.default_rng(seed).normal(scale=3, size=(n, vocabulary))
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def word(token: int) -> str:
    return WORDS[token % len(WORDS)] + ("" if token < len(WORDS) else f"_{token}")


def chat_token(values: np.ndarray, chosen: int, k: int, *, ids: bool = False, extra: bool = False) -> dict[str, Any]:
    """One entry of `logprobs.content`; `extra` lists the chosen token behind the best ones, as vLLM does."""
    best = list(np.argsort(-values)[:k])
    listed = [*best, chosen] if extra and chosen not in best else best

    def one(token: int) -> dict[str, Any]:
        named = {"id": int(token)} if ids else {}
        return {"token": word(token), "logprob": float(values[token]), "bytes": list(word(token).encode()), **named}

    return {**one(chosen), "top_logprobs": [one(token) for token in listed]}


def chat(seed: int, k: int = 5, n: int = 12, **kinds: bool) -> tuple[dict[str, Any], np.ndarray, list[int]]:
    """A chat response, the whole distributions behind it, and the chosen tokens."""
    values = distributions(seed, n)
    chosen = [int(np.random.default_rng((seed, step)).choice(40, p=np.exp(row))) for step, row in enumerate(values)]
    content = [chat_token(row, token, k, **kinds) for row, token in zip(values, chosen, strict=True)]
    response = {
        "id": f"chatcmpl-{seed}",
        "object": "chat.completion",
        "created": 1764140000,
        "model": "example/served",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(map(word, chosen))},
                "logprobs": {"content": content, "refusal": None},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n},
    }
    return response, values, chosen


REQUEST = {"model": "example/served", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.7, "seed": 3}


def imported(path: Path, lines: Any, name: str = "log.jsonl", requests: Path | None = None, **options: Any) -> Any:
    """The lake after an import of `lines`, one JSON value per line, or of one value."""
    file = path / name
    file.write_text("\n".join(map(json.dumps, lines)) if isinstance(lines, list) else json.dumps(lines))
    read = Responses(requests, processed=options.pop("processed", False))
    lake = Lake.create(path / "lake")
    import_logs(lake, check_logs([file], read, ImportChoices(**options)), read, ImportChoices(**options))
    return tracelake.open(path / "lake")


@pytest.mark.parametrize(
    "kinds", [{}, {"ids": True}, {"ids": True, "extra": True}], ids=["openai", "llama.cpp", "vllm"]
)
def test_chat_tokens_have_the_numbers_of_the_whole_distribution(tmp_path: Path, kinds: dict[str, bool]) -> None:
    responses = [chat(seed, k=11, **kinds) for seed in range(3)]
    pairs = [{"request": {**REQUEST, "top_logprobs": 11}, "response": response} for response, _, _ in responses]
    lake = imported(tmp_path, pairs)
    tokens = lake.scan("token_steps").sort("sequence_id", "position").collect()
    assert lake.verify("deep").ok and tokens.height == 36
    for sequence, (response, values, chosen) in enumerate(responses):
        mine = tokens.filter(sequence_id=sequence)
        step = np.arange(12)
        assert mine["position"].to_list() == list(range(9, 21)) and mine["step"].to_list() == list(step)
        logprob = values[step, chosen]
        np.testing.assert_allclose(mine["logprob"], logprob, rtol=1e-6)
        np.testing.assert_allclose(mine["surprisal_bits"], -logprob / math.log(2), rtol=1e-6)
        ordered = -np.sort(-values, axis=1)
        np.testing.assert_allclose(mine["top1_prob"], np.exp(ordered[:, 0]), rtol=1e-6)
        np.testing.assert_allclose(mine["margin"], np.exp(ordered[:, 0]) - np.exp(ordered[:, 1]), rtol=1e-5)
        np.testing.assert_allclose(mine["top10_mass"], np.exp(ordered[:, :10]).sum(1), rtol=1e-6)
        rank = (values > logprob[:, None]).sum(1)
        assert mine["rank"].to_list() == [int(r) if r < 11 else None for r in rank]
        assert mine["token_id"].to_list() == (chosen if "ids" in kinds else [None] * 12)
        text = response["choices"][0]["message"]["content"]
        assert [text[a:b] for a, b in zip([0, *mine["char_end"]], mine["char_end"], strict=False)] == [
            *map(word, chosen)
        ]
        least = lake.sql(
            "select value from imported_metrics where name like '%at_least' and sequence_id = $s order by step",
            {"s": sequence},
        )["value"].to_numpy()
        entropy = -(np.exp(values) * values).sum(1) / math.log(2)
        assert (least <= entropy + 1e-6).all() and (least > 0.5 * entropy).all()
    [row] = lake.sql("from sequences where sequence_id = 1").to_dicts()
    assert (row["prompt"], row["origin"], row["temperature"], row["seed"]) == (
        '[{"content":"hi","role":"user"}]', "sampled", 0.7, 3,
    )  # fmt: skip
    assert (row["finish_reason"], row["n_prompt_tokens"], row["n_generated_tokens"]) == ("eos", 9, 12)
    assert tokens["entropy_bits"].null_count() == 36


def test_what_is_not_known_is_null_with_a_reason(tmp_path: Path) -> None:
    """Without the request: no prompt, an ambiguous end, and the chosen token may be listed whatever its rank."""
    response, values, chosen = chat(5, k=1, extra=True)
    response["choices"][0]["logprobs"]["content"][3]["logprob"] = -9999.0
    response["choices"][0]["message"]["content"] += "?"
    del response["usage"]
    lake = imported(tmp_path, response, "one.json")
    tokens = lake.scan("token_steps").sort("step").collect()
    best = [int(row.argmax()) for row in values]
    sure = [bool(math.exp(row[token]) > 0.5) for row, token in zip(values, chosen, strict=True)]
    for step, row in enumerate(tokens.iter_rows(named=True)):
        if step == 3:
            assert row["logprob"] is None and row["rank"] is None
        elif chosen[step] != best[step]:
            assert row["rank"] is None and row["top1_prob"] == pytest.approx(math.exp(values[step].max()))
        else:
            assert row["rank"] == (0 if sure[step] else None)
            assert (row["top1_prob"] is None) == (not sure[step])
    assert tokens["margin"].null_count() == tokens["top10_mass"].null_count() == tokens["char_end"].null_count() == 12
    reasons = dict(lake.sql("select name, reason from imported_metrics where value is null").rows())
    assert set(reasons) == {
        "sequences.prompt", "sequences.finish_reason", "sequences.n_prompt_tokens", "token_steps.char_end",
        "token_steps.logprob",
    }  # fmt: skip
    assert "9999" in reasons["token_steps.logprob"] and "stop text" in reasons["sequences.finish_reason"]
    [row] = lake.sql("from sequences").to_dicts()
    assert row["prompt"] is None and row["prompt_id"] is None and row["finish_reason"] is None


def test_batches_failed_requests_and_log_probabilities_after_sampling(tmp_path: Path) -> None:
    response, values, chosen = chat(1)
    twice = json.loads(json.dumps(response))
    twice["choices"].append(json.loads(json.dumps(twice["choices"][0])) | {"index": 1, "finish_reason": "length"})
    lines = [
        {"id": "b1", "custom_id": "first", "response": {"status_code": 200, "body": twice}, "error": None},
        {"id": "b2", "custom_id": "second", "response": None, "error": {"message": "busy"}},
    ]
    requests = tmp_path / "input.jsonl"
    body = {"custom_id": "first", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST | {"stop": ["#"]}}
    requests.write_text(json.dumps(body))
    lake = imported(tmp_path, lines, requests=requests, processed=True, tag="batch")
    rows = lake.sql("select item_id, sample, finish_reason, temperature from sequences order by sample").rows()
    assert rows == [("first", 0, None, 0.7), ("first", 1, "length", 0.7)]
    tokens = lake.scan("token_steps").collect()
    np.testing.assert_allclose(
        tokens.sort("sequence_id", "step")["sampling_logprob"][:12], values[np.arange(12), chosen], rtol=1e-6
    )
    assert tokens["logprob"].null_count() == tokens["top1_prob"].null_count() == tokens.height == 24
    assert lake.runs[0]["tag"] == "batch" and lake.runs[0]["model"] == "example/served"


def test_completions_with_an_echoed_prompt(tmp_path: Path) -> None:
    logprobs = {
        "tokens": ["Two", " and", " two", "bytes:\\xf0\\x9f", "bytes:\\x99\\x82"],
        "token_logprobs": [None, -1.5, -0.25, -2.0, -0.01],
        "top_logprobs": [
            None,
            {" and": -1.5, " or": -0.5},
            {" two": -0.25},
            {" is": -0.5, "bytes:\\xf0\\x9f": -2.0},
            None,
        ],
        "text_offset": [0, 3, 7, 11, 11],
    }
    choice = {"index": 0, "text": "Two and two🙂", "logprobs": logprobs, "finish_reason": "stop", "stop_reason": None}
    response = {"id": "cmpl-1", "object": "text_completion", "model": "m", "choices": [choice]}
    request = {"prompt": "Two and two", "echo": True, "logprobs": 2, "temperature": 0}
    lake = imported(tmp_path, [{"request": request, "response": response}])
    tokens = lake.scan("token_steps").sort("position").collect()
    assert tokens["is_prompt"].to_list() == [True, True, True, False, False]
    assert tokens["logprob"].to_list() == [None, -1.5, -0.25, -2.0, pytest.approx(-0.01)]
    assert tokens["rank"].to_list() == [None, 1, 0, 1, 0] and tokens["char_end"].to_list() == [None, None, None, 0, 1]
    [row] = lake.sql("from sequences").to_dicts()
    assert (row["completion"], row["origin"], row["finish_reason"]) == ("🙂", "greedy", "eos")
    assert (row["n_prompt_tokens"], row["n_generated_tokens"]) == (3, 2) and lake.verify("deep").ok


def test_the_completion_interface_of_llama_cpp(tmp_path: Path) -> None:
    values = distributions(9, 4)
    chosen = [int(row.argmax()) for row in values]
    entries = [chat_token(row, token, 3, ids=True) for row, token in zip(values, chosen, strict=True)]
    response = {
        "index": 0, "content": "".join(map(word, chosen)), "tokens": chosen, "model": "q.gguf", "prompt": "hi",
        "tokens_predicted": 4, "tokens_evaluated": 2, "stop_type": "limit", "completion_probabilities": entries,
        "generation_settings": {"temperature": 0.5, "top_k": 40, "top_p": 0.95, "seed": 4294967295},
    }  # fmt: skip
    lake = imported(tmp_path, [response, {**response, "completion_probabilities": None, "content": "x"}])
    [one, other] = lake.sql("from sequences order by sequence_id").to_dicts()
    assert (one["prompt"], one["finish_reason"], one["top_k"], one["seed"]) == ("hi", "length", 40, 4294967295)
    assert lake.sql("select token_id from token_steps order by step")["token_id"].to_list() == chosen
    assert other["n_generated_tokens"] == 4 and lake.sql("select count(*) from token_steps").item() == 4
    for layout in ({"content": "a", "probs": []}, {"token": "a", "prob": 0.5}):
        with pytest.raises(UsageError, match="line 1: its probabilities"):
            imported(tmp_path, [{**response, "completion_probabilities": [layout]}, response])


def test_health_charts_and_the_report_work_on_them(tmp_path: Path) -> None:
    lines = [{"request": REQUEST | {"top_logprobs": 11}, "response": chat(seed, k=11)[0]} for seed in range(12)]
    lake = imported(tmp_path, lines)
    verdicts = lake.query("health", run="latest")
    assert verdicts.height == 12 and verdicts["reason"].null_count() == 0
    for name in ("surprisal_trace", "surprisal_by_position", "top_surprising_tokens", "completion_lengths"):
        assert lake.query(name, run="latest").height, name
    lake.chart("surprisal_trace", run="latest")
    page = lake["latest"].report(tmp_path / "report.html")
    assert page and "example/served" in (tmp_path / "report.html").read_text()


def test_once_only(tmp_path: Path) -> None:
    response, _, _ = chat(2)
    lake = imported(tmp_path, response)
    assert imported(tmp_path, response).runs[0]["run_id"] == lake.runs[0]["run_id"] and len(lake.runs) == 1
    assert len(imported(tmp_path, response, again=True).runs) == 2
    assert len(imported(tmp_path, [response, chat(3)[0]], new_only=True).runs) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b"[]", "no completions"),
        (b"[3]", "response 1: expected an object"),
        (b'{"custom_id": "x"}\n{"b":', "line 2 is no JSON"),
        (b'{"object": "list"}', "expected a response"),
        (b'{"choices": 3}', "choices must be a list"),
        (b'{"object": "chat.completion.chunk", "choices": []}', "one chunk of a stream"),
        (
            b'{"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": 3}]}}]}',
            "token must be a text",
        ),
        (
            b'{"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a", "logprob": 0.7}]}}]}',
            "must not be above 0",
        ),
        (b'{"choices": [{"text": "a", "logprobs": {"tokens": ["a"], "token_logprobs": []}}]}', "different lengths"),
        (
            b'{"choices": [{"text": "ab", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [null, -1]}}]}',
            "says where it ends",
        ),
    ],
)
def test_what_is_no_response_is_named_and_nothing_is_written(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "log.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        check_logs([file], Responses(None, processed=False), ImportChoices())
    with pytest.raises(NotFoundError):
        check_logs([tmp_path / "none"], Responses(None, processed=False), ImportChoices())
    assert not (tmp_path / "lake").exists()


def test_the_least_entropy_is_reached_by_a_distribution() -> None:
    """Two best tokens of 0.4 and 0.25 leave 0.35: at least 0.25 and 0.1 more."""
    expected = -sum(p * math.log2(p) for p in (0.4, 0.25, 0.25, 0.1))
    assert least_entropy([math.log(0.4), math.log(0.25)]) == pytest.approx(expected)
    assert least_entropy([0.0]) == 0 and least_entropy([]) is None


def test_ends_of_characters_in_several_tokens() -> None:
    tokens = [ScoredToken("a", -1), *(ScoredToken("�", -1, data=piece) for piece in PIECES), ScoredToken("<end>", -1)]
    assert character_ends(tokens, "a🙂") == [1, 1, 2, 2]
    assert character_ends(tokens, "b🙂") is None


def test_the_method_is_the_verb(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(chat(3)[0]), encoding="utf-8")
    Lake.create(tmp_path / "lake")
    lake = tracelake.open(tmp_path / "lake")
    (run,) = lake.import_logprobs([path], tag="api")
    assert run.run_id.startswith("api") and lake.sql("from token_steps where not is_prompt").height == 12
    with pytest.raises(UsageError, match=r"smapling.*sampling"):
        lake.import_logprobs([path], distribution="smapling")
