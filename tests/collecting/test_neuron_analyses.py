"""Paths, components, words and ablations of single neurons of tinymath, against what lake and model say."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.collect.neurons.choice import read_neurons
from tracelake.collect.neurons.lexicon import lexicon, read_lexicon
from tracelake.collect.neurons.outputs import path_vectors
from tracelake.collect.rereading.directions import find_direction
from tracelake.collect.rereading.second_order.head_paths import HeadPaths
from tracelake.collect.stored_sequences import load_run_model
from tracelake.lake.errors import LakeError, NotFoundError, UsageError

NEURONS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with scores, and the direction they are of."""
    folder = tmp_path_factory.mktemp("neurons")
    np.save(folder / "direction.npy", np.random.default_rng(0).normal(size=128))
    settings = {"dataset": "tinymath:test", "limit": 30, "max_new_tokens": 48, "batch_size": 30, "tag": "made"}
    tracelake.collect(folder / "lake", keep=("tokens", "activations:final_norm:prompt"), **settings)
    tracelake.open(folder / "lake").second_order(str(folder / "direction.npy"), "made")
    return folder


@pytest.fixture(scope="module")
def lake(folder: Path) -> tracelake.OpenLake:
    return tracelake.open(folder / "lake")


def direction(folder: Path) -> np.ndarray:
    vector = np.load(folder / "direction.npy")
    return vector / np.linalg.norm(vector)


def test_paths_give_the_stored_scores(lake: tracelake.OpenLake, folder: Path) -> None:
    given = str(folder / "direction.npy")
    answer = lake.neuron_pca("made", neurons=NEURONS, direction=given)
    assert answer.computed and answer.n_rows["neuron_components"] == NEURONS * 5
    assert not lake.neuron_pca("made", neurons=NEURONS, direction=given).computed
    loaded = load_run_model(lake, lake.resolve_run("made"), dtype="float32")
    paths = HeadPaths(loaded, find_direction(lake, given).vector)
    rows = lake.sql(
        "select p.sequence_id, p.layer, p.neuron, p.factor, p.vector, s.vector[p.neuron + 1] as score from "
        "second_order_paths p join second_order_scores s on s.sequence_id = p.sequence_id and s.layer = p.layer and "
        "s.effect = 'second_order' order by all"
    )
    assert rows.height == 30 * 5 * NEURONS
    onto = [paths.neurons(layer).double().numpy() for layer in range(6)]
    for _, layer, neuron, factor, vector, score in rows.iter_rows():
        ours = factor * np.array(vector) @ onto[layer][:, neuron]
        assert ours == pytest.approx(score, rel=1e-3, abs=1e-3)
    sizes = lake.sql(
        "select layer, list(vector) v from second_order_scores where effect = 'second_order' group by layer"
    )
    for layer, vectors in sizes.iter_rows():
        largest = np.argsort(-np.abs(np.array(vectors)).mean(0), kind="stable")[:NEURONS]
        chosen = set(rows.filter(layer=layer)["neuron"])
        assert layer == 5 or chosen == set(largest.tolist())


def test_components_are_those_of_the_explicit_vectors(lake: tracelake.OpenLake, folder: Path) -> None:
    answer = lake.neuron_pca("made", neurons=NEURONS, top_k=8, direction=str(folder / "direction.npy"))
    loaded = load_run_model(lake, lake.resolve_run("made"), dtype="float32")
    paths = HeadPaths(loaded, torch.from_numpy(direction(folder)))
    query = "from neuron_components where analysis_id = $1 order by layer, neuron"
    for row in lake.sql(query, [answer.analysis_id]).iter_rows(named=True):
        outputs = path_vectors(paths, row["layer"], [row["neuron"]])[0].numpy()
        q = lake.sql(
            "select p.vector, p.factor, s.prompt_id from second_order_paths p join sequences s using (run_id, "
            "sequence_id) where layer = $1 and neuron = $2 and p.analysis_id = $3 order by sequence_id",
            [row["layer"], row["neuron"], row["paths_id"]],
        )
        effects = np.array(q["vector"].to_list()) * q["factor"].to_numpy()[:, None] @ outputs
        train = np.array([int(_fold(one)) > 1 for one in q["prompt_id"]])
        centred = effects - effects[train].mean(0)
        sizes = np.linalg.norm(centred, axis=1)
        far = centred[train][np.argsort(-sizes[train], kind="stable")[:8]]
        _, singular, right = np.linalg.svd(far, full_matrices=False)
        assert row["n"] == train.sum() and row["n_test"] == (~train).sum() and row["reason"] is None
        assert row["share"] == pytest.approx(singular[0] ** 2 / np.square(singular).sum(), rel=1e-5)
        assert abs(np.array(row["vector"]) @ right[0]) == pytest.approx(1, abs=1e-5)
        smallest = np.sort(sizes[train])[-8]
        assert row["smallest_norm"] == pytest.approx(smallest, rel=1e-5)
        assert row["n_significant_test"] == (sizes[~train] > smallest).sum()
        assert row["onto_direction"] == pytest.approx(np.array(row["vector"]) @ direction(folder), abs=1e-5)


def _fold(prompt_id: str) -> int:
    import hashlib

    return int(hashlib.sha256(prompt_id.encode()).hexdigest(), 16) % 5


def test_words_are_rows_of_the_unembedding(lake: tracelake.OpenLake, folder: Path) -> None:
    answer = lake.neuron_words("made", neurons=NEURONS, atoms=4, direction=str(folder / "direction.npy"))
    rows = lake.sql(
        "select w.*, c.vector from neuron_words w join neuron_components c on c.analysis_id = w.components_id and "
        "c.layer = w.layer and c.neuron = w.neuron where w.analysis_id = $1 order by w.layer, w.neuron, place",
        [answer.analysis_id],
    )
    assert rows.height == NEURONS * 5 * 4
    loaded = load_run_model(lake, lake.resolve_run("made"))
    words = loaded.model.get_output_embeddings().weight.detach().double().numpy()[: len(loaded.tokenizer)]
    atoms = words - words.mean(0)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    for start in range(0, rows.height, 4):
        some = rows[start : start + 4]
        vector, ids = np.array(some["vector"][0]), some["token_id"].to_list()
        assert ids[0] == np.abs(atoms @ vector).argmax()
        rest = vector - some["coefficient"].to_numpy() @ atoms[ids]
        assert some["explained"][-1] == pytest.approx(1 - rest @ rest / (vector @ vector), abs=1e-5)
        assert loaded.tokenizer.decode([ids[0]]).strip() in some["word"][0]


def test_ablations_start_from_what_the_run_stored(lake: tracelake.OpenLake, folder: Path) -> None:
    given = str(folder / "direction.npy")
    answer = lake.neuron_ablation("made", neurons=NEURONS, direction=given)
    rows = lake.scan("neuron_ablations", "made").collect()
    assert rows.height == 5 * 7 and set(rows["analysis_id"]) == {answer.analysis_id}
    known = lake.sql(
        "select a.vector, s.correct, s.prompt_id, t.surprisal_bits from activations a join sequences s using (run_id, "
        "sequence_id) join token_steps t on t.sequence_id = s.sequence_id and t.position = s.n_prompt_tokens where "
        "a.site = 'final_norm' and a.position = s.n_prompt_tokens - 1 order by s.sequence_id"
    )
    along = np.array(known["vector"].to_list()) @ direction(folder)
    right, test = known["correct"].to_numpy(), np.array([_fold(one) < 2 for one in known["prompt_id"]])
    edge = (along[~test & right].mean() + along[~test & ~right].mean()) / 2
    unedited = rows.filter(condition="unedited").row(0, named=True)
    assert unedited["n_problems"] == test.sum() == unedited["n_tokens"]
    assert unedited["accuracy"] == pytest.approx(((along > edge) == right)[test].mean())
    nats = known["surprisal_bits"].to_numpy()[test].mean() * math.log(2)
    assert unedited["loss"] == pytest.approx(nats, rel=1e-3)
    pairs = along[test & right][:, None] - along[test & ~right]
    assert unedited["auroc"] == pytest.approx((pairs > 0).mean())
    by_condition = {(r["layer"], r["condition"]): r for r in rows.iter_rows(named=True)}
    assert abs(by_condition[0, "zero"]["loss_change"]) > 1e-6 and abs(by_condition[0, "all"]["loss_change"]) > 1e-6


def test_measured_effects_are_those_of_an_edited_run(lake: tracelake.OpenLake, folder: Path) -> None:
    lake.neuron_ablation("made", neurons=NEURONS, direction=str(folder / "direction.npy"))
    first = lake.scan("effect_validation", "made").filter(layer=1).sort("neuron").collect().row(0, named=True)
    tracelake.collect(
        folder / "lake", dataset="tinymath:test", limit=30, max_new_tokens=1, batch_size=30, tag="edited",
        edit=(f"zero:mlp_post@1:neurons={first['neuron']}",), keep=("tokens", "activations:final_norm:prompt"),
    )  # fmt: skip
    rows = lake.sql(
        "select a.vector, a.run_id, s.prompt_id from activations a join sequences s using (run_id, sequence_id) where "
        "a.position = s.n_prompt_tokens - 1 order by a.run_id, s.prompt_id"
    )
    found = {
        run_id: (np.array(part["vector"].to_list()) @ direction(folder), part["prompt_id"].to_list())
        for (run_id,), part in rows.group_by("run_id", maintain_order=True)
    }
    edited, whole = found[lake.resolve_run("edited")], found[lake.resolve_run("made")]
    assert edited[1] == whole[1]
    test = np.array([_fold(one) < 2 for one in whole[1]])
    measured = 100 * (whole[0] - edited[0])[test]
    assert first["measured"] == pytest.approx(measured.mean(), rel=1e-3, abs=1e-3)
    assert first["n_problems"] == test.sum() and abs(measured).max() > 1e-2
    scores = lake.sql(
        f"select s.prompt_id, effect, vector[{first['neuron'] + 1}] v from second_order_scores join sequences s using "
        "(run_id, sequence_id) where layer = 1 order by effect, s.prompt_id"
    )
    second, direct = (scores.filter(effect=one)["v"].to_numpy()[test] for one in ("second_order", "direct"))
    assert first["correlation"] == pytest.approx(np.corrcoef(second + direct, measured)[0, 1], abs=1e-3)
    assert first["predicted_second_order"] == pytest.approx(second.mean(), rel=1e-5)


def test_lexicons_are_read_and_refused_by_line(lake: tracelake.OpenLake, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("apples\nplus\ntogether have\n")
    loaded = load_run_model(lake, lake.resolve_run("made"))
    dictionary = lexicon(loaded, path)
    assert dictionary.words == ["apples", "plus", "together have"] and dictionary.token_ids is None
    for word, vector in zip(dictionary.words, dictionary.vectors, strict=True):
        encoded = loaded.tokenizer(word, return_special_tokens_mask=True)
        with torch.no_grad():
            states = loaded.decoder.module(input_ids=torch.tensor([encoded["input_ids"]])).last_hidden_state[0]
        own = states[~torch.tensor(encoded["special_tokens_mask"]).bool()].mean(0)
        np.testing.assert_allclose(vector, own, rtol=1e-4, atol=1e-5)
    given = str(folder / "direction.npy")
    answer = lake.neuron_words("made", neurons=NEURONS, lexicon=path, atoms=2, direction=given)
    rows = lake.scan("neuron_words").filter(analysis_id=answer.analysis_id).collect()
    assert set(rows["word"]) <= set(dictionary.words) and rows["token_id"].null_count() == rows.height
    before = lake.scan("neuron_words").collect().height
    for text, words in (
        ("one\n\ntwo\n", "line 2 is empty"),
        ("one\none\n", "line 2: 'one' is there already"),
        ("", "holds no words"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            lake.neuron_words("made", neurons=NEURONS, lexicon=path, direction=given)
    with pytest.raises(NotFoundError, match="no lexicon"):
        read_lexicon(tmp_path / "missing.txt")
    assert lake.scan("neuron_words").collect().height == before


def test_a_word_that_the_tokenizer_does_not_know_is_named(tmp_path: Path) -> None:
    from random_models import random_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from tracelake.collect.models.model import LoadedModel

    plain = Tokenizer(models.WordLevel({"[UNK]": 0, "two": 1, "three": 2}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]")
    loaded = LoadedModel("made", random_model("gpt2"), tokenizer, torch.device("cpu"))
    path = tmp_path / "words.txt"
    path.write_text("two\nzebra\n")
    with pytest.raises(UsageError, match="line 2: the tokenizer of made does not know 'zebra'"):
        lexicon(loaded, path)


def test_neurons_are_named_by_files(tmp_path: Path) -> None:
    path = tmp_path / "neurons.txt"
    path.write_text("# layer, neuron\n0,5\n2 7\n0,1\n")
    assert read_neurons(path) == {0: (1, 5), 2: (7,)}
    ranking = tmp_path / "ranking.json"
    ranking.write_text(json.dumps({"1": [{"neuron_index": 3, "score": 0.5}, 9]}))
    assert read_neurons(ranking) == {1: (3, 9)}
    path.write_text("0,5\nfive\n")
    with pytest.raises(UsageError, match="line 2: 'five' is no layer and neuron"):
        read_neurons(path)


def test_what_cannot_be_is_said_and_changes_nothing(lake: tracelake.OpenLake, folder: Path, tmp_path: Path) -> None:
    given = str(folder / "direction.npy")
    before = lake.scan("analyses").collect().height
    path = tmp_path / "neurons.txt"
    for text, words in (("9,1\n", "no layer 9: the model has 6"), ("0,512\n", "no neuron 512 in layer 0: it has 512")):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            lake.neuron_pca("made", neurons=str(path), direction=given)
    np.save(tmp_path / "other.npy", np.ones(128))
    for options, words in (
        ({"direction": str(tmp_path / "other.npy")}, "is not the direction of scores"),
        ({}, "which is not in this folder. Say where it lies"),
        ({"direction": given, "scores": "second-order-0"}, "has no scores 'second-order-0'"),
        ({"direction": given, "top_k": 2}, "--top-k must be at least 3"),
        ({"direction": given, "neurons": 0}, "at least 1"),
    ):
        with pytest.raises(LakeError, match=words):
            lake.neuron_pca("made", **options)
    with pytest.raises(UsageError, match="--atoms"):
        lake.neuron_words("made", atoms=0, direction=given)
    assert lake.scan("analyses").collect().height == before


def test_verbs_print_their_ids(lake: tracelake.OpenLake, folder: Path) -> None:
    where = ["made", "--lake", str(folder / "lake"), "--json", "--neurons", str(NEURONS)]
    for verb in ("neuron-pca", "neuron-words", "neuron-ablation"):
        ran = CliRunner().invoke(app, ["analyze", verb, *where, "--direction", str(folder / "direction.npy")])
        assert ran.exit_code == 0, ran.output
        facts = json.loads(ran.stdout.splitlines()[-1])
        assert facts["analysis_id"].startswith(verb)
    for name in ("neuron_words", "effect_validation", "neuron_sparsity"):
        assert lake.query(name, run="made").height > 0
