"""What comes from the Hugging Face hub beside models: without a network its absence is told at once."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import config, load_dataset
from huggingface_hub import constants

from tracelake.collect.embedding.loading import load_embedder
from tracelake.collect.inputs.corpora.documents import open_corpus
from tracelake.collect.inputs.problem_sets import LAYOUTS, hub_rows
from tracelake.collect.inputs.prompts import HubDataset
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError

SOURCES: dict[str, tuple[type[LakeError], str, Callable[[], object]]] = {
    "prompts": (NotFoundError, "some/data:test .*no address.*--prompts", lambda: [*HubDataset("some/data", "test")]),
    "corpus": (
        NotFoundError,
        "some/data:train .*no address",
        lambda: [*open_corpus("hf:some/data", "text").documents()],
    ),
    "problem set": (NotFoundError, "no address.*--dataset-path", lambda: [*hub_rows(LAYOUTS["gsm8k"], "test")]),
    "embedder": (ConfigError, "'e' could not be loaded", lambda: load_embedder("e", "some/embedder", "cpu")),
}


@pytest.fixture(autouse=True)
def hub_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")


@pytest.mark.parametrize("source", SOURCES)
def test_it_is_not_waited_for(source: str) -> None:
    """The retries of one request take 23 s; how the libraries ask afterwards is as it was."""
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    error, match, read = SOURCES[source]
    began = time.monotonic()
    with pytest.raises(error, match=match):
        read()
    assert time.monotonic() - began < 20
    assert (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE) == before


def test_what_was_fetched_before_is_read_and_a_wrong_split_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that the library itself made, put where it keeps what it has fetched."""
    rows = tmp_path / "train.jsonl"
    rows.write_text('{"question": "One?", "answer": "1"}\n')
    load_dataset("json", data_files=str(rows), cache_dir=str(tmp_path / "made"))
    kept = tmp_path / "fetched" / "some___data" / "default"
    kept.parent.mkdir(parents=True)
    next((tmp_path / "made" / "json").iterdir()).rename(kept)
    for file in kept.rglob("json-train.arrow"):
        file.rename(file.with_name("data-train.arrow"))
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "fetched")
    assert [(prompt.text, prompt.answer) for prompt in HubDataset("some/data", "train")] == [("One?", "1")]
    with pytest.raises(NotFoundError, match=r"some/data:tset could not be loaded: Unknown split.*\['train'\]"):
        list(HubDataset("some/data", "tset"))
