"""Tokens nearest to stored directions, and effect vectors as files, against numpy and the scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tracelake
from tracelake.collect.stored_sequences import load_run_model
from tracelake.lake.analyses import commit_analysis
from tracelake.lake.derived import Analysis, analysis_row
from tracelake.lake.errors import NotFoundError, UsageError


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> tracelake.OpenLake:
    """A run of tinymath with two directions, one of them in the residual stream."""
    folder = tmp_path_factory.mktemp("directions") / "lake"
    tracelake.collect(folder, dataset="tinymath:test", limit=5, max_new_tokens=2, keep=("tokens",), tag="made")
    lake = tracelake.open(folder)
    run_id = lake.resolve_run("made")
    analysis = Analysis(run_id, "directions", {}, "0" * 16)
    vectors = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)
    columns = {"direction_id": ["a", "b"], "site": ["final_norm", "resid_post"], "analysis_id": analysis.analysis_id,
               "method": "lda", "label": "correct"}  # fmt: skip
    call = {"table": "directions", "columns": columns, "vectors": vectors, "dtype": "float32"}
    commit_analysis(lake, analysis, {"analyses": analysis_row(analysis, 2, [], None)}, [call])
    return lake


def test_tokens_are_those_of_the_unembedding(lake: tracelake.OpenLake) -> None:
    result = lake.direction_tokens("made", top=3)
    assert result.computed and not lake.direction_tokens("made", top=3).computed
    loaded = load_run_model(lake, lake.resolve_run("made"))
    weight = loaded.model.get_output_embeddings().weight.detach().double()[: len(loaded.tokenizer)]
    norm = loaded.decoder.module.norm if hasattr(loaded.decoder.module, "norm") else loaded.decoder.module.ln_f
    given = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)
    for name, vector in zip("ab", torch.from_numpy(given).double(), strict=True):
        if name == "b":
            x = torch.zeros(128) if not hasattr(norm, "bias") else None
            centred = vector if x is not None else vector - vector.mean()
            vector = norm.weight.detach().double() * centred
        scores = ((weight - weight.mean(0)) @ (vector / vector.norm())).numpy()
        rows = lake.scan("direction_tokens").filter(direction_id=name).sort("sign", "place").collect()
        away, toward = (rows.filter(sign=sign) for sign in ("away", "toward"))
        assert toward["token_id"].to_list() == np.argsort(-scores, kind="stable")[:3].tolist()
        assert away["token_id"].to_list() == np.argsort(scores, kind="stable")[:3].tolist()
        np.testing.assert_allclose(toward["score"], np.sort(scores)[::-1][:3], rtol=1e-4)


def test_runs_without_directions_are_told_how_to_get_some(lake: tracelake.OpenLake, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--top"):
        lake.direction_tokens("made", top=0)
    tracelake.collect(tmp_path / "lake", prompt=("one",), max_new_tokens=1, tag="bare")
    with pytest.raises(NotFoundError, match="no directions: lake analyze directions bare"):
        tracelake.open(tmp_path / "lake").direction_tokens("bare")


@pytest.mark.parametrize("scaling", ["plain", "state"])
def test_vector_files_give_the_scores(lake: tracelake.OpenLake, tmp_path: Path, scaling: str) -> None:
    scores = lake.second_order("a", "made", scaling=scaling).scores
    neurons = tmp_path / "neurons.txt"
    neurons.write_text("0,3\n0,11\n2,40\n5,1\n")
    written = lake.effect_vectors(tmp_path / "out", "made", neurons=str(neurons), scores=scores.analysis_id)
    assert written.files == tuple(
        f"tinymath_test_tinymath_second_order_{end}" for end in ("layer0.npy", "layer2.npy", "meta.json")
    )
    meta = json.loads((tmp_path / "out" / written.files[-1]).read_text())
    assert meta["neuron_indices"] == {"0": [3, 11], "2": [40], "5": [1]} and meta["scaling"] == scaling
    vector = np.random.default_rng(0).normal(size=(2, 128)).astype(np.float32)[0].astype(np.float64)
    for layer, some in ((0, [3, 11]), (2, [40])):
        array = np.load(tmp_path / "out" / f"tinymath_test_tinymath_second_order_layer{layer}.npy")
        assert array.shape == (5, len(some), 128) and array.dtype == np.float32
        rows = lake.sql(
            "select sequence_id, vector from second_order_scores where analysis_id = $1 and layer = $2 and "
            "effect = 'second_order' order by sequence_id", [scores.analysis_id, layer],
        )  # fmt: skip
        assert rows["sequence_id"].to_list() == meta["sequence_ids"]
        expected = np.array(rows["vector"].to_list())[:, some]
        ours = array @ (vector / np.linalg.norm(vector))
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
