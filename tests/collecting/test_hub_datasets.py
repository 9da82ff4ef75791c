"""What comes from the Hugging Face hub beside models: without a network its absence is told at once."""

import time
from collections.abc import Callable

import pytest
from datasets import config
from huggingface_hub import constants

from tracelake.collect.embedding.loading import load_embedder
from tracelake.collect.inputs.corpora.documents import open_corpus
from tracelake.collect.inputs.problem_sets import LAYOUTS, hub_rows
from tracelake.collect.inputs.prompts import HubDataset
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError

SOURCES: dict[str, tuple[type[LakeError], str, Callable[[], object]]] = {
    "prompts": (NotFoundError, "some/data:test .*no address.*NAME:SPLIT", lambda: [*HubDataset("some/data", "test")]),
    "corpus": (
        NotFoundError,
        "some/data:train .*no address",
        lambda: [*open_corpus("hf:some/data", "text").documents()],
    ),
    "problem set": (NotFoundError, "no address.*--dataset-path", lambda: [*hub_rows(LAYOUTS["gsm8k"], "test")]),
    "embedder": (ConfigError, "'e' could not be loaded", lambda: load_embedder("e", "some/embedder", "cpu")),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_hub_without_an_address_is_not_waited_for(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The retries of one request take 23 s; how the libraries ask afterwards is as it was."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.invalid")
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    error, match, read = SOURCES[source]
    began = time.monotonic()
    with pytest.raises(error, match=match):
        read()
    assert time.monotonic() - began < 20
    assert (constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE) == before
