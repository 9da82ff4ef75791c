"""Corpora: every form of source gives its documents, contexts hold each token once, and any place can be taken up."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tracelake
from tracelake.collect.configuration.config import CollectConfig, resolve_config
from tracelake.collect.inputs.corpora.documents import Document, HubCorpus, open_corpus
from tracelake.collect.inputs.corpora.packing import ContextMaker, Place
from tracelake.collect.tinymath.problems import problems
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, NotFoundError, StoppedError, UsageError

TEXTS = [f"Document {i}: " + "word " * (7 * i % 23 + 3) + "é." for i in range(40)]


@dataclass(frozen=True)
class Texts:
    """A corpus of given texts."""

    texts: tuple[str, ...]

    def documents(self, start: int = 0) -> Iterator[Document]:
        return islice((Document(f"d{i}", text) for i, text in enumerate(self.texts)), start, None)


def maker(corpus: Any, **settings: Any) -> ContextMaker:
    from random_models import byte_tokenizer

    given = {
        "corpus": corpus, "tokenizer": byte_tokenizer(begin=True), "document_tokens": 60, "pack": None,
        "split_long": False, "min_chars": 0, "validation": 0.0, "budget": 10**9, "n_embeddings": None, "end_id": 7,
    }  # fmt: skip
    return ContextMaker(**given | settings)


def contexts(made: ContextMaker, place: Place | None = None):
    return list(made.contexts(place or Place()))


def tokens_of(made: ContextMaker, text: str) -> list[int]:
    return made.tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def corpus() -> Texts:
    return Texts(tuple(TEXTS))


def test_packed_contexts_hold_every_token_once_in_order(corpus: Texts) -> None:
    made = maker(corpus, pack=50, split_long=True)
    bos = made.tokenizer.bos_token_id
    packed = [context for context, _ in contexts(made)]
    assert {len(context.ids) for context in packed} == {50} and {context.ids[0] for context in packed} == {bos}
    joined = [i for context in packed for i in context.ids[1:].tolist()]
    whole = [i for text in TEXTS for i in [*tokens_of(made, text), 7]]
    assert joined == whole[: len(joined)] and 0 <= len(whole) - len(joined) < 49


def test_the_text_and_the_metadata_of_a_packed_context_say_what_is_in_it(corpus: Texts) -> None:
    made = maker(corpus, pack=50, split_long=True)
    for context, _ in contexts(made):
        assert context.char_ends is not None and context.char_ends[-1] == len(context.text)
        assert context.prompt.metadata is not None
        placed = context.prompt.metadata["documents"]
        assert placed[0]["position"] == 1 and sum(d["n_tokens"] for d in placed) == 49
        for document in placed:
            first, n = document["position"], document["n_tokens"]
            own = [*tokens_of(made, TEXTS[int(document["item_id"][1:])]), 7]
            assert context.ids[first : first + n].tolist() == own[document["offset"] : document["offset"] + n]
        starts = [0, *context.char_ends[:-1].tolist()]
        pieces = [context.text[a:b] for a, b in zip(starts, context.char_ends, strict=True)]
        assert pieces[0] == "" and "".join(pieces) == context.text
        assert context.prompt.item_id == placed[0]["item_id"] and context.item_offset == placed[0]["offset"]


@pytest.mark.parametrize("pack", [None, 33, 50])
@pytest.mark.parametrize("split_long", [False, True])
def test_any_place_can_be_taken_up(corpus: Texts, pack: int | None, split_long: bool) -> None:
    made = maker(corpus, pack=pack, split_long=split_long, validation=0.3, document_tokens=40)
    whole = contexts(made)
    assert len(whole) > 20
    for cut in range(0, len(whole), 3):
        place = Place.from_json(json.loads(json.dumps(whole[cut][1].as_json())))
        rest = contexts(made, place)
        assert [after for _, after in rest] == [after for _, after in whole[cut + 1 :]]
        for (a, _), (b, _) in zip(rest, whole[cut + 1 :], strict=True):
            assert np.array_equal(a.ids, b.ids) and (a.text, a.prompt.split) == (b.text, b.prompt.split)
            assert a.prompt.metadata == b.prompt.metadata and a.item_offset == b.item_offset


def test_validation_documents_are_packed_apart_by_the_hash_of_their_id(corpus: Texts) -> None:
    made = maker(corpus, pack=50, split_long=True, validation=0.3)
    expected = {
        f"d{i}": "validation"
        if int.from_bytes(hashlib.sha256(f"d{i}".encode()).digest()[:8]) < 0.3 * 2**64
        else "train"
        for i in range(len(TEXTS))
    }
    assert 4 < list(expected.values()).count("validation") < 20
    seen = {"train": [], "validation": []}
    for context, _ in contexts(made):
        assert context.prompt.metadata is not None
        for document in context.prompt.metadata["documents"]:
            assert expected[document["item_id"]] == context.prompt.split
        seen[str(context.prompt.split)] += context.ids[1:].tolist()
    for split, ids in seen.items():
        own = [i for n, text in enumerate(TEXTS) if expected[f"d{n}"] == split for i in [*tokens_of(made, text), 7]]
        assert ids == own[: len(ids)] and len(own) - len(ids) < 49


def test_documents_that_are_not_packed_are_cut_or_split(corpus: Texts) -> None:
    cut, split = maker(corpus, document_tokens=30), maker(corpus, document_tokens=30, split_long=True)
    for i, (context, _) in enumerate(contexts(cut)):
        ids = cut.tokenizer(TEXTS[i])["input_ids"]
        assert context.ids.tolist() == ids[:30] and TEXTS[i].startswith(context.text)
    for i in range(len(TEXTS)):
        pieces = [context for context, _ in contexts(split) if context.prompt.item_id == f"d{i}"]
        assert [p for c in pieces for p in c.ids.tolist()] == split.tokenizer(TEXTS[i])["input_ids"]
        assert "".join(c.text for c in pieces) == TEXTS[i]
        assert [c.item_offset for c in pieces] == [30 * n for n in range(len(pieces))]


def test_short_documents_and_the_budget(corpus: Texts) -> None:
    long = [i for i, text in enumerate(TEXTS) if len(text) >= 80]
    made = maker(corpus, min_chars=80)
    assert [context.prompt.item_id for context, _ in contexts(made)] == [f"d{i}" for i in long]
    assert 0 < len(long) < len(TEXTS)
    limited = contexts(maker(corpus, budget=500))
    assert sum(len(c.ids) for c, _ in limited) == limited[-1][1].n_tokens <= 500
    packed = contexts(maker(corpus, budget=500, pack=50))
    assert len(packed) == 10


def test_token_ids_without_embedding_are_refused(corpus: Texts) -> None:
    with pytest.raises(ConfigError, match="Document d0: token .* has no embedding: the model has 5"):
        contexts(maker(corpus, n_embeddings=5))


def write_sources(folder: Path) -> None:
    rows = [{"text": text, "id": f"id{i}"} for i, text in enumerate(TEXTS[:4])]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "b.txt").write_text("one text\nof two lines")
    (folder / "sub").mkdir()
    pq.write_table(pa.table({"text": TEXTS[4:6]}), folder / "sub" / "c.parquet")
    (folder / "sub" / "d.csv").write_text('text,other\n"x, y",1\nz,2\n')
    (folder / "ignored.png").write_bytes(b"x")


def test_files_and_folders(tmp_path: Path) -> None:
    write_sources(tmp_path)
    corpus = open_corpus(str(tmp_path), "text")
    documents = [(d.item_id, d.text) for d in corpus.documents()]
    assert documents == [
        *((f"id{i}", TEXTS[i]) for i in range(4)),
        ("b.txt", "one text\nof two lines"),
        ("sub/c.parquet#0", TEXTS[4]),
        ("sub/c.parquet#1", TEXTS[5]),
        ("sub/d.csv#0", "x, y"),
        ("sub/d.csv#1", "z"),
    ]
    assert [(d.item_id, d.text) for d in corpus.documents(5)] == documents[5:]
    alone = open_corpus(str(tmp_path / "sub" / "d.csv"), "other")
    assert [(d.item_id, d.text) for d in alone.documents()] == [("0", "1"), ("1", "2")]
    before = corpus.describe()
    (tmp_path / "b.txt").write_text("changed")
    assert open_corpus(str(tmp_path), "text").describe() != before


def test_tinymath_gives_each_solution_as_a_document() -> None:
    documents = list(islice(open_corpus("tinymath:test", "text").documents(), 4))
    for i, problem in enumerate(islice(problems("test"), 2)):
        texts = [f"Question: {problem.question}\nAnswer: {problem.solutions[m]}" for m in ("direct", "split")]
        assert [d.text for d in documents[2 * i : 2 * i + 2]] == texts
        assert {d.item_id for d in documents[2 * i : 2 * i + 2]} == {problem.item_id}


def test_a_dataset_is_streamed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.table({"body": TEXTS[:10]}), folder / "train-00000-of-00001.parquet")
    corpus = open_corpus(f"hf:{folder}:train", "body")
    assert isinstance(corpus, HubCorpus)
    assert [(d.item_id, d.text) for d in corpus.documents()] == [(str(i), text) for i, text in enumerate(TEXTS[:10])]
    assert [d.text for d in corpus.documents(7)] == TEXTS[7:10]
    first = hashlib.sha256("\0".join(TEXTS[:10]).encode()).hexdigest()
    assert corpus.describe()["first_documents_sha256"] == first
    wikipedia = open_corpus("wikipedia:de", "text")
    assert isinstance(wikipedia, HubCorpus) and wikipedia.subset == "20231101.de"


def test_what_is_no_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.bin").write_bytes(b"x")
    (tmp_path / "r.jsonl").write_text('{"txet": "a"}\n')
    (tmp_path / "n.jsonl").write_text('{"text": 5}\n')
    for error, match, name in [
        (NotFoundError, "There is no corpus", str(tmp_path / "none")),
        (NotFoundError, "holds no .txt", str(tmp_path / "empty")),
        (UsageError, "a corpus is read from", str(tmp_path / "x.bin")),
        (UsageError, r"line 1 has no field 'text'. Did you mean 'txet'.*--text-field", str(tmp_path / "r.jsonl")),
        (UsageError, "'text' must be a text, not int", str(tmp_path / "n.jsonl")),
        (NotFoundError, "tinymath has no split 'tset'", "tinymath:tset"),
        (UsageError, "write wikipedia or wikipedia:LANG", "wikipedia:de:x"),
        (UsageError, "write hf:NAME", "hf:"),
    ]:
        with pytest.raises(error, match=match):
            list(open_corpus(name, "text").documents())


def test_settings_that_contradict_are_refused() -> None:
    for match, flags in [
        ("a corpus is only read", {"corpus": "tinymath", "max_new_tokens": 5}),
        ("a corpus is only read", {"corpus": "tinymath", "samples": 2}),
        ("limit is for prompts", {"corpus": "tinymath", "limit": 2}),
        ("chat is for prompts", {"corpus": "tinymath", "chat": "on"}),
        ("pack says how a corpus is read", {"prompt": ["x"], "pack": 16}),
        ("tokens says how a corpus is read", {"prompt": ["x"], "tokens": 16}),
        ("validation", {"corpus": "tinymath", "validation": 1.0}),
    ]:
        with pytest.raises(UsageError, match=match):
            resolve_config(flags, environ={})
    config = CollectConfig(corpus="tinymath")
    assert (config.max_new_tokens, config.tokens) == (0, 1_000_000)
    assert CollectConfig(**config.model_dump()) == config


HARVEST: dict[str, Any] = {
    "corpus": "tinymath:test", "tokens": 6_000, "pack": 64, "validation": 0.2, "batch_size": 4, "segment_items": 16,
    "keep": ["activations:resid_post@2,4", "activations:mlp_out@2"], "min_chars": 0,
}  # fmt: skip


def rows_of(lake: Lake, run: str) -> dict[str, Any]:
    """Everything of a run that must not depend on interruptions."""
    tables = {name: lake.scan(name, run).sort("sequence_id").collect().drop("run_id") for name in ("sequences",)}
    steps = lake.scan("token_steps", run).sort("sequence_id", "position").collect().drop("run_id", "latency_ms")
    matrix, keys = lake.vectors(2, "mlp_out", run, where="true")
    return tables | {"steps": steps, "vectors": matrix, "keys": keys.drop("run_id")}


def test_a_harvest_is_the_same_after_an_interruption(tmp_path: Path) -> None:
    whole = tracelake.collect(tmp_path / "lake", **HARVEST).run_id
    lake = Lake.open(tmp_path / "lake")
    expected = rows_of(lake, whole)
    assert expected["sequences"].height == 6_000 // 64 == 93
    assert set(expected["sequences"]["split"]) == {"train", "validation"}
    assert (expected["sequences"]["n_prompt_tokens"] == 64).all() and expected["steps"].height == 93 * 64
    assert expected["sequences"]["finish_reason"].unique().to_list() == ["none"]
    with pytest.raises(StoppedError):
        tracelake.collect(tmp_path / "lake", **HARVEST, tag="part", max_bytes=200_000)
    part = lake.resolve_run("part")
    assert lake.run_status(part) == "interrupted"
    assert 0 < len(lake.snapshot(part).runs[part].committed) < 6
    from tracelake.collect.running.collector import resume_run

    assert resume_run(lake, part) is not None
    found = rows_of(lake, part)
    assert found["sequences"].equals(expected["sequences"]) and found["steps"].equals(expected["steps"])
    assert np.array_equal(found["vectors"], expected["vectors"]) and found["keys"].equals(expected["keys"])
    assert lake.run_status(part) == "complete"


def test_a_corpus_that_ends_early_completes_the_run(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:9]))
    settings = {"corpus": str(path), "min_chars": 0, "keep": ["activations:resid_post@0"], "segment_items": 2}
    notices: list[str] = []
    collected = tracelake.collect(tmp_path / "lake", tokens=100_000, pack=32, **settings)  # type: ignore[arg-type]
    notices += collected.notices
    lake = Lake.open(tmp_path / "lake")
    assert lake.run_status(collected.run_id) == "complete"
    assert any("gave" in text and "of 100,000 tokens" in text for text in notices)
    sequences = lake.scan("sequences", collected.run_id).collect()
    assert sequences.height * 32 == collected.n_tokens > 200
    from tracelake.collect.running.collector import resume_run

    assert resume_run(lake, collected.run_id) is None
    assert lake.verify("deep").problems == []
    with pytest.raises(UsageError, match="no context of it can be read"):
        tracelake.collect(tmp_path / "lake", tokens=100_000, pack=200, corpus=str(path), min_chars=10_000)
    with pytest.raises(ConfigError, match="--pack 300: tinymath reads at most 256 tokens"):
        tracelake.collect(tmp_path / "lake", pack=300, corpus=str(path))
    with pytest.raises(UsageError, match="--tokens 10 is less than one context of 20"):
        tracelake.collect(tmp_path / "lake", pack=20, tokens=10, corpus=str(path))


def test_segments_hold_many_tokens_where_only_vectors_are_kept() -> None:
    from tracelake.collect.configuration.keep import Keep
    from tracelake.collect.running.planning.plan import SEGMENT_TOKENS, _only_vectors, _segments

    config = CollectConfig(corpus="tinymath", tokens=10**7)
    per_item = np.full(10**6 // 50, 50 * 500.0)
    segments = _segments(per_item, config, 50.0, only_vectors=True)
    assert all((b - a) * 50 >= SEGMENT_TOKENS - 50 for a, b in segments[:-1])
    assert max(b - a for a, b in _segments(per_item, config, 50.0, only_vectors=False)) == 128
    assert _only_vectors(Keep.parse(["activations:resid_post"])) and not _only_vectors(Keep.parse(["tokens"]))
