"""Prompts are tokenised once for a new run, and what is committed is not tokenised again when it is resumed."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from random_models import PROMPTS, byte_tokenizer
from transformers import AutoTokenizer

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.inputs.corpora.spool import Spool
from tracelake.collect.inputs.prompts import GivenPrompts, Prompt
from tracelake.collect.inputs.tokenizing.tokenized import PromptTokenizer, TokenizedPrompt
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, StoppedError


@pytest.mark.parametrize("chat", ["off", "on"])
@pytest.mark.parametrize(("on_long", "limit"), [("split", 5), ("truncate", 5), ("error", 1000)])
def test_spooled_items_are_those_that_were_tokenised(chat: str, on_long: str, limit: int) -> None:
    tokenizer = PromptTokenizer(byte_tokenizer(chat=chat == "on"), chat, on_long, limit, generates=True)  # type: ignore[arg-type]
    source = GivenPrompts(PROMPTS * 70)
    spool = Spool()
    lengths = spool.fill(source, tokenizer.tokenize)
    spooled, direct = list(spool.items(source)), list(tokenizer.tokenize(source))
    assert lengths.prompt.tolist() == [len(item.ids) for item in direct]
    assert len(spooled) == len(direct) > 256
    for one, other in zip(spooled, direct, strict=True):
        assert (one.prompt, one.text, one.rendered, one.item_offset) == (
            other.prompt, other.text, other.rendered, other.item_offset,
        )  # fmt: skip
        assert np.array_equal(one.ids, other.ids) and one.ids.dtype == other.ids.dtype
        assert np.array_equal(one.char_ends, other.char_ends) and one.char_ends.dtype == other.char_ends.dtype


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that were tokenised, in order."""
    seen: list[str] = []
    tokenize = PromptTokenizer.tokenize

    def counting(self: PromptTokenizer, prompts: Iterable[Prompt]) -> Iterator[TokenizedPrompt]:
        for item in tokenize(self, prompts):
            seen.append(item.prompt.text)
            yield item

    monkeypatch.setattr(PromptTokenizer, "tokenize", counting)
    return seen


def test_each_prompt_is_tokenised_once(
    tokenised: list[str], model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    stops = iter((False, False, True))
    config = CollectConfig(model=str(model_folder("gpt2")), prompt=PROMPTS, max_new_tokens=2, segment_items=1)
    lake = Lake.create(tmp_path)
    with pytest.raises(StoppedError):
        Collection(config, Callbacks(should_stop=lambda: next(stops, True))).start(lake)
    assert tokenised == list(PROMPTS)
    n_committed = lake.sql("select count(*) as n from sequences")["n"].item()
    assert n_committed > 0
    tokenised.clear()
    assert resume_run(lake, "latest") is not None
    assert tokenised == list(PROMPTS[n_committed:])


@pytest.mark.parametrize("weights", [True, False])
def test_a_tokenizer_with_more_tokens_than_the_model_is_refused_before_anything_runs(
    weights: bool, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model_folder("gpt2"), tmp_path / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<extra{i}>" for i in range(50)])
    tokenizer.save_pretrained(folder)
    Collection(CollectConfig(model=str(folder), prompt=PROMPTS), weights=weights)
    config = CollectConfig(model=str(folder), prompt=("good", "bad <extra49>"))
    with pytest.raises(ConfigError, match=r"Item 1: token \d+ \('<extra49>'\) has no embedding: the tokenizer has"):
        Collection(config, weights=weights)
