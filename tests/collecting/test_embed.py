"""Step embeddings equal the sentence embedding of the growing text, computed one text at a time."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import tracelake
from tracelake.collect.embedding.embedder import Embedder, Scope, bundled_minilm, growing_texts
from tracelake.lake.errors import ConfigError, UsageError

needs_minilm = pytest.mark.skipif(bundled_minilm() is None, reason="the minilm extra is not installed")


def test_growing_texts_of_every_scope() -> None:
    ends = [2, 2, 5, 6]
    assert growing_texts("P:", "ab cde", ends, Scope.parse("completion")) == ["ab", "ab", "ab cd", "ab cde"]
    assert growing_texts("P:", "ab cde", ends, Scope.parse("prompt+completion"))[-1] == "P:ab cde"
    assert growing_texts("P:", "ab cde", ends, Scope.parse("window:2")) == ["ab", "ab", " cd", " cde"]
    assert Scope.parse("prompt").window is None
    for wrong in ("window:0", "window:", "all"):
        with pytest.raises(UsageError, match="window:N"):
            Scope.parse(wrong)


@needs_minilm
def test_embeddings_equal_those_of_single_texts(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    scopes = ("prompt+completion", "completion", "window:3")
    prompts = ("Mia has 5 pens.", "Mia has 5 pens. " * 6)
    tracelake.collect(tmp_path, prompt=prompts, samples=2, max_new_tokens=6, keep=("embeddings",), embed_scope=scopes)
    lake = tracelake.open(tmp_path)
    rows = lake.sql(
        "select e.*, prompt, rendered_prompt, completion, char_end, n_prompt_tokens from step_embeddings e "
        "join sequences using (run_id, sequence_id) join token_steps using (run_id, sequence_id, position) "
        "where e.step is not null order by sequence_id, scope, position"
    )
    assert rows.height == 3 * lake.sql("select count(*) from generated_tokens").item()
    assert (rows["position"] - rows["n_prompt_tokens"]).to_list() == rows["step"].to_list()
    model = SentenceTransformer(str(bundled_minilm()))
    ends = {key: list(group["char_end"]) for key, group in rows.group_by(["sequence_id", "scope"], maintain_order=True)}
    for row in rows.iter_rows(named=True):
        done = row["completion"][: row["char_end"]]
        if row["scope"] == "prompt+completion":
            done = (row["rendered_prompt"] or row["prompt"]) + done
        elif row["scope"] == "window:3":
            before = ends[row["sequence_id"], row["scope"]]
            done = done[before[row["step"] - 3] if row["step"] >= 3 else 0 :]
        expected = model.encode([done], normalize_embeddings=True, show_progress_bar=False)[0]
        np.testing.assert_allclose(np.array(row["vector"]), expected, atol=2e-5)
        assert row["n_pieces"] == len(model.tokenizer(done)["input_ids"]) and not row["truncated"]
    prompts = lake.sql(
        "select e.*, coalesce(rendered_prompt, prompt) as text, n_prompt_tokens from step_embeddings e "
        "join sequences using (run_id, sequence_id) where e.step is null"
    )
    assert prompts.height == 4 and set(prompts["scope"]) == {"prompt"}
    for row in prompts.iter_rows(named=True):
        assert row["position"] == row["n_prompt_tokens"] - 1
        expected = model.encode([row["text"]], normalize_embeddings=True, show_progress_bar=False)[0]
        np.testing.assert_allclose(np.array(row["vector"]), expected, atol=2e-5)
    assert rows.filter(pl.col("dim") != 384).height == 0 and set(rows["embedder"]) == {"all-MiniLM-L6-v2"}


@needs_minilm
def test_equal_texts_are_embedded_once_and_cut_texts_say_so() -> None:
    embedder = Embedder(None, "cpu")
    calls: list[list[str]] = []
    encode = embedder._model.encode
    embedder._model.encode = lambda texts, **options: (calls.append(list(texts)), encode(texts, **options))[1]
    vectors, pieces, cut = embedder.embed(["a", "b", "a", "word " * 400, "word " * 401, "word " * 254])
    assert calls == [["a", "b", "word " * 400, "word " * 254]], "beyond the cut texts are equal"
    np.testing.assert_array_equal(vectors[3], vectors[4])
    np.testing.assert_allclose(vectors[3], vectors[5], atol=1e-5)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert cut.tolist() == [False, False, False, True, True, False] and pieces.tolist()[3:] == [402, 403, 256]


def test_code_from_an_embedder_folder_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Evil"}]))
    with pytest.raises(ConfigError, match=r"evil\.Evil"):
        Embedder(str(tmp_path), "cpu")
    assert not marker.exists()
