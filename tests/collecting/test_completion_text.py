"""Completions in context: prompt and completion together are the model's own text, whatever the tokenizer's spaces.

The reference decodes all tokens of a sequence at once, and every prefix of them.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from scripted_models import scripted_model
from subword_tokenizers import FALLBACK, TOKENIZERS, TURN, fallback_tokenizer, slow_word_tokenizer
from transformers import PreTrainedTokenizerBase

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.inputs.tokenizing.text import TokenText
from tracelake.collect.inputs.tokenizing.token_texts import token_texts
from tracelake.collect.running.collector import Collection
from tracelake.collect.running.stopping import stop_finder
from tracelake.lake import Lake

SIGN = "\ufffd"
PROMPT = "How many apples are left"


@pytest.fixture(scope="module", params=[*TOKENIZERS, "slow words"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    if request.param == "slow words":
        return slow_word_tokenizer(tmp_path_factory.mktemp("words"))
    return TOKENIZERS[request.param]()


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_prompt_and_completion_are_the_text_of_all_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    text = TokenText(tokenizer)
    words = ids_of(tokenizer, f"{PROMPT} apples and a pear")
    for n in range(1, len(words)):
        head = tokenizer.decode(words[:n], skip_special_tokens=True)
        assert head + text.completion(words[n:], words[:n]) == tokenizer.decode(words, skip_special_tokens=True)


def test_the_first_word_keeps_its_space(tokenizer: PreTrainedTokenizerBase) -> None:
    text, prompt = TokenText(tokenizer), ids_of(tokenizer, PROMPT)
    completion = ids_of(tokenizer, f"{PROMPT} apples and a pear")[len(prompt) :]
    assert text.completion(completion, prompt) == " apples and a pear"
    assert "".join(text.display(np.array(completion))) == " apples and a pear"
    assert text.written(completion) == " apples and a pear", "also where nothing stands before"


def test_char_ends_of_random_tokens_are_those_of_all_prefixes(tokenizer: PreTrainedTokenizerBase) -> None:
    """Bytes in any order, special tokens, characters that the prompt breaks off."""
    text, rng = TokenText(tokenizer), np.random.default_rng(5)
    typed = ids_of(tokenizer, f"{PROMPT} apples é漢🙂 and a pear")
    compared = 0
    for trial in range(120):
        ids = rng.integers(0, len(tokenizer), 24).tolist() if trial % 2 else typed
        n = int(rng.integers(1, len(ids)))
        before, own = ids[:n], ids[n:]
        completion = text.completion(own, before)
        ends = text.char_ends(own, completion, before)
        assert (np.diff(ends) >= 0).all() and len(ends) == len(own)
        whole, head = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, before))
        if not head.strip() or head.endswith(SIGN) or not whole.startswith(head):
            continue
        compared += 1
        assert head + completion == whole
        final = ""
        for i, end in enumerate(ends):
            grown = tokenizer.decode(ids[: n + i + 1], skip_special_tokens=True).rstrip(SIGN)[len(head) :]
            # What was complete stays complete, though one more byte makes a whole row of them unreadable for a while.
            final = max(final, os.path.commonprefix((grown, completion)), key=len)
            assert completion[:end] == final, (trial, i)
    assert compared > 40


def test_a_long_prompt_is_decoded_from_its_end_only(tokenizer: PreTrainedTokenizerBase) -> None:
    text, prompt = TokenText(tokenizer), ids_of(tokenizer, " ".join([PROMPT] * 40))
    own = ids_of(tokenizer, f"{PROMPT} and a pear")[len(ids_of(tokenizer, PROMPT)) :]
    completion = text.completion(own, np.array(prompt))
    assert tokenizer.decode([*prompt, *own]) == tokenizer.decode(prompt) + completion
    special = [*prompt, *[tokenizer.eos_token_id or tokenizer.unk_token_id] * 100]
    assert text.completion(own, special) == completion, "special tokens between them have no text"


def test_a_completion_finishes_a_character_of_the_prompt() -> None:
    tokenizer = fallback_tokenizer()
    ids = ids_of(tokenizer, "a \U0001f642 b")
    first = next(i for i, token in enumerate(tokenizer.convert_ids_to_tokens(ids)) if token in FALLBACK)
    before, own = ids[: first + 2], ids[first + 2 :]
    text = TokenText(tokenizer)
    completion = text.completion(own, before)
    assert completion == "\U0001f642 b"
    assert text.char_ends(own, completion, before).tolist() == [0, 1, *range(2, 2 + len(own) - 2)]


def test_completions_without_a_prompt_begin_as_the_tokenizer_has_it(tokenizer: PreTrainedTokenizerBase) -> None:
    own = ids_of(tokenizer, "apples and a pear")
    text = TokenText(tokenizer)
    assert text.completion(own) == tokenizer.decode(own, skip_special_tokens=True) == "apples and a pear"
    begin = [i for i in (tokenizer.bos_token_id,) if i is not None]
    assert text.completion(own, begin) == "apples and a pear", "a begin token is no text to continue"


def found_at(tokenizer: PreTrainedTokenizerBase, stop: str, own: list[int], prompt: list[int]) -> int | None:
    """The step at which the stop text is found."""
    finds = stop_finder(TokenText(tokenizer), (stop,))
    for step in range(len(own)):
        if finds(Sequence(0, 0, 0, np.array(prompt, dtype=np.int64), generated=own[: step + 1])):
            return step
    return None


def test_stop_texts_are_found_where_they_end(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = ids_of(tokenizer, PROMPT)
    own = ids_of(tokenizer, f"{PROMPT} apples and a pear")[len(prompt) :]
    for stop in (" apples", " and", "es and", " pear"):
        grown = [tokenizer.decode([*prompt, *own[: i + 1]])[len(PROMPT) :] for i in range(len(own))]
        wanted = next(i for i, text in enumerate(grown) if stop in text)
        assert found_at(tokenizer, stop, own, prompt) == wanted
    assert found_at(tokenizer, "left apples", own, prompt) is None, "the prompt is not searched"
    assert found_at(tokenizer, " apples", own, []) == found_at(tokenizer, " apples", own, prompt)


@pytest.mark.parametrize("name", ["llama", "unigram", "wordpiece"])
def test_the_text_of_a_special_token_is_found(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    prompt, own = ids_of(tokenizer, PROMPT), ids_of(tokenizer, "and a pear")
    turn = tokenizer.convert_tokens_to_ids(TURN)
    assert found_at(tokenizer, TURN, [*own, turn, *own], prompt) == len(own)
    assert (
        found_at(tokenizer, f"pear {TURN}" if name == "wordpiece" else f"pear{TURN}", [*own, turn], prompt) is not None
    )
    assert found_at(tokenizer, TURN, own, prompt) is None
    assert found_at(tokenizer, "turn", [*own, turn], prompt) is None, "a part of its name is no text"


# -- in the lake -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llama", "gemma", "unigram", "wordpiece", "slow words"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, PreTrainedTokenizerBase]:
    """A model that answers PROMPT with ` apples and a pear`, and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = slow_word_tokenizer(folder) if request.param == "slow words" else TOKENIZERS[request.param]()
    prompt = tokenizer(PROMPT)["input_ids"]
    own = ids_of(tokenizer, f"{PROMPT} apples and a pear")[len(ids_of(tokenizer, PROMPT)) :]
    return scripted_model(folder, tokenizer, len(prompt), own), tokenizer


def collected(folder: Path, path: Path, **settings: object) -> Lake:
    lake = Lake.create(path)
    defaults = {"model": str(folder), "prompt": (PROMPT,), "device": "cpu", "keep": ("tokens",), "max_new_tokens": 30}
    Collection(CollectConfig(**{**defaults, **settings})).start(lake, assume_yes=True)
    return lake


def test_the_lake_holds_the_models_text(written: tuple[Path, PreTrainedTokenizerBase], tmp_path: Path) -> None:
    folder, tokenizer = written
    lake = collected(folder, tmp_path / "lake")
    (row,) = lake.scan("sequences").collect().iter_rows(named=True)
    tokens = lake.scan("token_steps").sort("position").collect()
    ids = tokens["token_id"].to_list()
    assert row["prompt"] + row["completion"] == f"{PROMPT} apples and a pear"
    n = row["n_prompt_tokens"]
    last = len(ids) - 1
    for i, end in list(enumerate(tokens["char_end"].to_list()))[n:]:
        grown = tokenizer.decode(ids[: i + 1], skip_special_tokens=True)
        assert row["prompt"] + row["completion"][:end] == grown, i
    shown = [token for i, token in enumerate(tokens["token"].to_list()) if n <= i < last]
    assert "".join(shown) == " apples and a pear" and ids[last] == tokenizer.unk_token_id


def test_a_stop_text_with_its_space_ends_the_first_word(
    written: tuple[Path, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    folder, tokenizer = written
    lake = collected(folder, tmp_path / "lake", stop=(" apples",))
    (row,) = lake.scan("sequences").collect().iter_rows(named=True)
    own = ids_of(tokenizer, f"{PROMPT} apples")[len(ids_of(tokenizer, PROMPT)) :]
    assert row["finish_reason"] == "stop_string" and row["completion"].startswith(" apples")
    assert row["n_generated_tokens"] <= len(own) + 1


def test_growing_texts_are_embedded_and_exported_with_their_space(
    written: tuple[Path, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    import json

    from tracelake.collect.embedding.embed_run import read_texts
    from tracelake.collect.embedding.embedder import Scope, growing_texts
    from tracelake.lake.exchange.tsif.export import step_lines

    lake = collected(written[0], tmp_path / "lake")
    run_id = lake.resolve_run("latest")
    texts = [json.loads(line)["cum_text"] for line in step_lines(lake, run_id)]
    (text,) = read_texts(lake, run_id)
    assert texts == growing_texts(text.prompt, text.completion, text.char_ends, Scope.parse("prompt+completion"))
    assert texts[-1] == f"{PROMPT} apples and a pear" and all(grown.startswith(PROMPT) for grown in texts)


def test_texts_of_ids_without_the_model_are_those_of_the_rows(
    written: tuple[Path, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    folder, tokenizer = written
    if not tokenizer.is_fast:
        assert token_texts(str(folder), None, [1]) == {}
        return
    ids = list(range(len(tokenizer)))
    shown = TokenText(tokenizer).display(np.array(ids))
    assert token_texts(str(folder), None, ids) == dict(zip(ids, shown, strict=True))
