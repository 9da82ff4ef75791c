"""A run that breaks off by itself is `failed` with its reason, what it committed stays, and it can be resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import PROMPTS

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import FailedError, StoppedError


def _collection(folder: Path, **settings: Any) -> Collection:
    defaults = {"max_new_tokens": 4, "batch_size": 1, "device": "cpu", "segment_items": 1, "tag": "broken"}
    return Collection(CollectConfig(model=str(folder), prompt=PROMPTS, **{**defaults, **settings}))


def _break_after(collection: Collection, calls: int, error: BaseException) -> None:
    """Let the model's last block raise once it has been called `calls` times."""
    counted = iter(range(calls))

    def hook(module: torch.nn.Module, args: tuple, output: Any) -> None:
        if next(counted, None) is None:
            raise error

    collection.loaded.decoder.blocks[-1].register_forward_hook(hook)


@pytest.mark.parametrize(
    ("error", "reason", "advice"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory", "--batch-size 1"),
        (MemoryError(), "out of memory with --batch-size 1", "--batch-size 1"),
        (RuntimeError("mat1 and mat2 cannot\nbe multiplied"), "RuntimeError: mat1 and mat2 cannot be multiplied", ""),
        (KeyError("position_bias"), "KeyError: 'position_bias' (test_failed_runs.py:", ""),
    ],
)
def test_a_model_that_raises_ends_the_run_as_failed(
    error: BaseException, reason: str, advice: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    collection = _collection(model_folder("llama"))
    _break_after(collection, 8, error)
    lake = Lake.create(tmp_path)
    with pytest.raises(FailedError) as raised:
        collection.start(lake)
    assert raised.value.exit_code == 1
    assert reason in str(raised.value) and advice in str(raised.value) and "--resume broken-" in str(raised.value)
    (run,) = lake.sql("select run_id, status, error, n_sequences from runs").rows(named=True)
    assert run["status"] == "failed" and reason in run["error"] and "\n" not in run["error"]
    assert 0 < run["n_sequences"] < len(PROMPTS), "what was committed before stays"


def test_a_failed_run_is_resumed_to_the_same_rows(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    broken = _collection(model_folder("llama"))
    _break_after(broken, 8, RuntimeError("a transient fault"))
    lake = Lake.create(tmp_path / "broken")
    with pytest.raises(FailedError):
        broken.start(lake)
    assert lake.run_status("latest") == "failed"
    resumed = resume_run(lake, "latest")
    assert resumed is not None and resumed.n_sequences == len(PROMPTS)
    assert lake.sql("select status, error from runs").row(0) == ("complete", None)
    whole = Lake.create(tmp_path / "whole")
    _collection(model_folder("llama")).start(whole)
    question = "select * exclude (run_id, latency_ms) from token_steps order by all"
    assert lake.sql(question).equals(whole.sql(question), null_equal=True)


def test_a_broken_tokenizer_fails_the_run(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    collection = _collection(model_folder("llama"))

    def decode(*args: Any, **kwargs: Any) -> str:
        raise ValueError("this vocabulary has a hole")

    collection.loaded.tokenizer.decode = decode
    lake = Lake.create(tmp_path)
    with pytest.raises(FailedError, match="hole"):
        collection.start(lake)
    assert lake.run_status("latest") == "failed"


def test_stopping_is_no_failure(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    asked = iter((False, True))
    config = CollectConfig(model=str(model_folder("llama")), prompt=PROMPTS, max_new_tokens=4, segment_items=1)
    collection = Collection(config, Callbacks(should_stop=lambda: next(asked, True)))
    lake = Lake.create(tmp_path)
    with pytest.raises(StoppedError):
        collection.start(lake)
    assert lake.run_status("latest") == "interrupted"
