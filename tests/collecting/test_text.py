"""Where each token ends in its text: prompt offsets, completions, templates, begin tokens, too long prompts."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from random_models import BEGIN, CONTEXT, END, PROMPTS, byte_tokenizer, random_model, save
from transformers import PreTrainedTokenizerFast

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.inputs.prompts import Prompt
from tracelake.collect.inputs.tokenizing.text import TokenText
from tracelake.collect.inputs.tokenizing.tokenized import PromptTokenizer, TokenizedPrompt
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError

TOKENIZER = byte_tokenizer()
SIGN = "\ufffd"


def prefixes(ids: list[int], tokenizer: PreTrainedTokenizerFast = TOKENIZER) -> list[str]:
    """The complete text after every token, by decoding every prefix; an unfinished character is not text yet."""
    return [tokenizer.decode(ids[: i + 1], skip_special_tokens=True).rstrip(SIGN) for i in range(len(ids))]


def random_ids(seed: int) -> list[int]:
    """Ids of random bytes (mostly no valid text), of characters of all lengths, or of both, special tokens included."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    text = "".join(rng.choice(list("aé🙂€ ñ漢\n"), n))
    parts = [rng.integers(0, len(TOKENIZER), n).tolist(), TOKENIZER(text)["input_ids"]]
    return [parts[0], parts[1], parts[1][:-1] + parts[0]][seed % 3] or [5]


def test_char_end_counts_the_complete_characters() -> None:
    text = TokenText(TOKENIZER)
    for seed in range(150):
        ids = random_ids(seed)
        completion = text.completion(ids)
        ends = text.char_ends(ids, completion)
        assert (np.diff(ends) >= 0).all()
        assert [completion[:end] for end in ends] == prefixes(ids), seed


def test_char_ends_of_known_text() -> None:
    text = TokenText(TOKENIZER)
    byte = {token: i for token, i in TOKENIZER.get_vocab().items() if len(token) == 1}
    a, space, e2, x82, ac = (byte[c] for c in ("a", "Ġ", "â", "Ĥ", "¬"))
    end = TOKENIZER.eos_token_id
    ids = [a, e2, x82, ac, space, e2, a, end, end]
    completion = text.completion(ids)
    assert completion == f"a€ {SIGN}a"
    assert text.char_ends(ids, completion).tolist() == [1, 1, 1, 2, 3, 3, 5, 5, 5]
    assert text.char_ends([], "").tolist() == []


def test_whole_characters_of_a_token_count_though_it_begins_another() -> None:
    """One token of a letter and the first byte of the next character: GPT-2 has many, a space before a dash is one."""
    pieces = {i: TOKENIZER.decode([i]) for i in range(len(TOKENIZER))}
    mixed = [i for i, text in pieces.items() if text.endswith(SIGN) and text.rstrip(SIGN)]
    assert mixed, "the training sentences gave no such token"
    for i in mixed:
        assert TokenText(TOKENIZER).char_ends([i], pieces[i]).tolist() == [len(pieces[i].rstrip(SIGN))]


def test_the_display_of_pieces_of_a_character() -> None:
    text = TokenText(TOKENIZER)
    ids = np.array(TOKENIZER("漢a")["input_ids"])
    shown = text.display(np.concatenate((ids, ids)))
    assert len(shown) == 2 * len(ids) and shown[len(ids) - 1] == "a" and SIGN in shown[0]
    assert text.display(np.array([TOKENIZER.eos_token_id])) == [END]


# -- prompts -----------------------------------------------------------------------------------------------------------


def tokenized(tokenizer: PreTrainedTokenizerFast, *texts: str, **options: object) -> list[TokenizedPrompt]:
    settings = {"chat": "auto", "on_long": "error", "limit": 50, "generates": True, **options}
    prompts = [Prompt(text, str(i)) for i, text in enumerate(texts)]
    return list(PromptTokenizer(tokenizer, **settings).tokenize(prompts))  # type: ignore[arg-type]


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_char_end_in_the_prompt_is_the_offset_of_the_tokenizer(begin: bool, chat: bool) -> None:
    tokenizer = byte_tokenizer(begin=begin, chat=chat)
    for item, given in zip(tokenized(tokenizer, *PROMPTS), PROMPTS, strict=True):
        assert item.text == given and (item.rendered is not None) == chat
        source = item.rendered or item.text
        plain = tokenizer(source, add_special_tokens=not chat, return_offsets_mapping=True)
        assert item.ids.tolist() == plain["input_ids"]
        assert item.char_ends is not None
        assert item.char_ends.tolist() == [end for _, end in plain["offset_mapping"]]
        assert item.char_ends[-1] == len(source)
        added = [i == tokenizer.bos_token_id for i in item.ids.tolist()]
        assert sum(added) == int(begin or chat), "one begin token, whoever writes it"
        if begin and not chat:
            assert item.char_ends[0] == 0


def test_pieces_of_a_character_end_where_it_ends() -> None:
    (item,) = tokenized(TOKENIZER, "a漢b")
    assert item.char_ends is not None and len(item.ids) == 5
    assert item.char_ends.tolist() == [1, 2, 2, 2, 3]


def test_tokens_that_the_tokenizer_adds_behind_repeat_the_last_offset() -> None:
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}", special_tokens=[(BEGIN, 0), (END, 1)]
    )
    (item,) = tokenized(tokenizer, "xyz")
    assert item.char_ends is not None and item.char_ends.tolist() == [0, 1, 2, 3, 3]


def test_when_the_template_applies() -> None:
    chat, plain = byte_tokenizer(chat=True), byte_tokenizer()
    rendered = f"{BEGIN}user: Hi\nassistant:"
    assert tokenized(chat, "Hi")[0].rendered == rendered
    assert tokenized(chat, "Hi", generates=False)[0].rendered is None
    assert tokenized(chat, "Hi", chat="off")[0].rendered is None
    assert tokenized(chat, "Hi", chat="on", generates=False)[0].rendered == f"{BEGIN}user: Hi\n"
    assert tokenized(plain, "Hi")[0].rendered is None
    with pytest.raises(ConfigError, match="template"):
        tokenized(plain, "Hi", chat="on")


def test_too_long_a_prompt() -> None:
    text = "Tom has three apples 🙂 and gives two to Mia"
    whole = TOKENIZER(text, return_offsets_mapping=True)
    ids, ends = whole["input_ids"], [end for _, end in whole["offset_mapping"]]
    assert len(ids) > 14
    with pytest.raises(ConfigError, match="--on-long"):
        tokenized(TOKENIZER, text, limit=7)
    (cut,) = tokenized(TOKENIZER, text, limit=7, on_long="truncate")
    assert cut.ids.tolist() == ids[:7] and cut.char_ends is not None and cut.char_ends.tolist() == ends[:7]
    assert cut.text == text and cut.item_offset == 0
    pieces = tokenized(TOKENIZER, text, "Mia", limit=7, on_long="split")
    own, other = pieces[:-1], pieces[-1]
    assert np.concatenate([piece.ids for piece in own]).tolist() == ids
    assert [piece.item_offset for piece in own] == list(range(0, len(ids), 7))
    assert {piece.prompt.item_id for piece in own} == {"0"} and other.prompt.item_id == "1"
    assert "".join(piece.text for piece in own) == text
    before = np.cumsum([0, *(len(piece.text) for piece in own)])
    absolute = np.concatenate([n + piece.char_ends for n, piece in zip(before, own, strict=False)])
    assert absolute.tolist() == ends


@pytest.mark.parametrize("limit", range(1, 6))
def test_a_split_inside_a_character_keeps_the_text(limit: int) -> None:
    text = "a漢🙂b"
    pieces = tokenized(TOKENIZER, text, limit=limit, on_long="split")
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.char_ends is not None and piece.char_ends[-1] == len(piece.text) for piece in pieces)


# -- in the lake -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, PreTrainedTokenizerFast]:
    tokenizer = byte_tokenizer(begin=True, chat=True)
    folder = save(random_model("llama"), tmp_path_factory.mktemp("chat"), tokenizer)
    return collected(folder, tmp_path_factory.mktemp("lake"), samples=2, max_new_tokens=20), tokenizer


def collected(folder: Path, path: Path, **settings: object) -> Lake:
    lake = Lake.create(path)
    defaults = {"model": str(folder), "prompt": PROMPTS, "device": "cpu", "keep": ("tokens",)}
    Collection(CollectConfig(**{**defaults, **settings})).start(lake, assume_yes=True)
    return lake


def test_stored_text_and_offsets(chat_run: tuple[Lake, PreTrainedTokenizerFast]) -> None:
    lake, tokenizer = chat_run
    tokens = lake.scan("token_steps").sort("sequence_id", "position").collect()
    assert tokens["char_end"].is_not_null().all()
    for row in lake.scan("sequences").sort("sequence_id").collect().iter_rows(named=True):
        own = tokens.filter(pl.col("sequence_id") == row["sequence_id"])
        ids, ends = own["token_id"].to_list(), own["char_end"].to_list()
        n = row["n_prompt_tokens"]
        source = row["rendered_prompt"] or row["prompt"]
        assert row["prompt"] == PROMPTS[row["sequence_id"] // 2] and source.startswith(f"{BEGIN}user: ")
        offsets = tokenizer(source, add_special_tokens=False, return_offsets_mapping=True)
        assert ids[:n] == offsets["input_ids"] and ids.count(tokenizer.bos_token_id) >= ids[:n].count(0) == 1
        assert ends[:n] == [end for _, end in offsets["offset_mapping"]]
        assert row["completion"] == tokenizer.decode(ids[n:], skip_special_tokens=True)
        assert [row["completion"][:end] for end in ends[n:]] == prefixes(ids[n:], tokenizer)
        assert own["token"].to_list() == [tokenizer.decode([i]) for i in ids]
    joined = lake.sql(
        "select left(s.completion, t.char_end) as text, t.sequence_id, t.step from token_steps t "
        "join sequences s using (run_id, sequence_id) where not t.is_prompt order by t.sequence_id, t.step"
    )
    grown = tokens.filter(~pl.col("is_prompt")).group_by("sequence_id", maintain_order=True).agg("token_id")["token_id"]
    assert joined["text"].to_list() == [text for ids in grown for text in prefixes(ids.to_list(), tokenizer)]


def test_pieces_of_one_item_in_the_lake(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    text = "#" * (2 * CONTEXT + 5)
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(json.dumps({"id": name, "prompt": t}) for name, t in (("long", text), ("short", "Mia"))))
    options = {"prompt": (), "prompts": str(file), "max_new_tokens": 0, "on_long": "split"}
    frame = (
        collected(model_folder("llama"), tmp_path / "lake", **options).scan("sequences").sort("sequence_id").collect()
    )
    assert frame["sequence_id"].to_list() == [0, 1, 2, 3]
    assert frame["item_id"].to_list() == ["long", "long", "long", "short"]
    assert frame["item_offset"].to_list() == [0, CONTEXT, 2 * CONTEXT, 0]
    assert frame["n_prompt_tokens"].to_list()[:3] == [CONTEXT, CONTEXT, 5]
    assert frame["prompt"].to_list() == ["#" * CONTEXT, "#" * CONTEXT, "#" * 5, "Mia"]
    assert frame["prompt_id"].n_unique() == 2
