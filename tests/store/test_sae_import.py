"""Autoencoders of other libraries: every format gives the same arrays, and only what reconstructs the lake is kept."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file
from vector_lakes import vector_lake

from tracelake.analysis.sae.folder import load_sae
from tracelake.analysis.sae.pt_file import read_pt
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError
from tracelake.lake.exchange.sae_export import export_sae
from tracelake.lake.exchange.sae_import import SaeImport, import_sae, read_sae
from tracelake.lake.exchange.sae_weights import fvu

D, N = 8, 16
RANDOM = np.random.default_rng(0)
B_DEC = RANDOM.normal(size=D).astype(np.float32)
W_ENC = np.concatenate([np.eye(D), -np.eye(D)], axis=1).astype(np.float32)
"""With its transpose as decoder and relu, every vector is its own reconstruction."""
ARRAYS = {"W_enc": W_ENC, "W_dec": W_ENC.T.copy(), "b_enc": np.zeros(N, np.float32), "b_dec": B_DEC}
X = RANDOM.normal(size=(30, D)).astype(np.float32)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def saelens(folder: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    given = {
        "architecture": "standard", "d_in": D, "d_sae": N, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"hook_name": "blocks.0.hook_resid_post", "model_name": "m", "sae_lens_version": "6.54.12"},
    }  # fmt: skip
    write_json(folder / "cfg.json", given | config)
    save_file(arrays or ARRAYS, folder / "sae_weights.safetensors")
    return folder


def before_version_6(folder: Path) -> Path:
    config = {"hook_point": "blocks.0.hook_resid_post", "activation_fn_str": "relu", "normalize_activations": False}
    write_json(folder / "cfg.json", {"d_in": D, "d_sae": N, "apply_b_dec_to_input": True, **config})
    save_file(ARRAYS, folder / "sae_weights.safetensors")
    return folder


def gemma_scope(folder: Path, arrays: dict[str, np.ndarray] | None = None) -> Path:
    folder = folder / "gemma-scope-2b-pt-res" / "layer_0" / "width_16k" / "average_l0_7"
    folder.mkdir(parents=True)
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    np.savez(folder / "params.npz", **{names.get(k, k): v for k, v in (arrays or shifted()).items()})
    return folder


def shifted() -> dict[str, np.ndarray]:
    """The same for coders that do not subtract b_dec: b_enc does it, the threshold is 0."""
    return ARRAYS | {"b_enc": -(B_DEC @ W_ENC), "threshold": np.zeros(N, np.float32)}


def llama_scope(folder: Path) -> Path:
    """Scaled by 2: the mean norm is half of the root of the width."""
    norm = {"in": D**0.5 / 2, "out": D**0.5 / 2}
    config = {"d_model": D, "d_sae": N, "jump_relu_threshold": 0.0, "dataset_average_activation_norm": norm}
    write_json(folder / "hyperparams.json", config | {"hook_point_in": "blocks.0.hook_resid_post"})
    (folder / "checkpoints").mkdir()
    a = shifted()
    tensors = {"encoder.weight": a["W_enc"].T, "encoder.bias": a["b_enc"] * 2, "decoder.weight": a["W_dec"].T,
               "decoder.bias": a["b_dec"] * 2}  # fmt: skip
    kept = {name: torch.from_numpy(np.ascontiguousarray(array)).bfloat16() for name, array in tensors.items()}
    save_torch_file(kept, folder / "checkpoints" / "final.safetensors")
    return folder


def sparsify(folder: Path, **config: Any) -> Path:
    folder = folder / "layers.0"
    write_json(folder / "cfg.json", {"d_in": D, "num_latents": N, "k": D, "normalize_decoder": True} | config)
    tensors = {"encoder.weight": W_ENC.T, "encoder.bias": ARRAYS["b_enc"], "W_dec": ARRAYS["W_dec"], "b_dec": B_DEC}
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, folder / "sae.safetensors")
    return folder


def dictionary_learning(folder: Path, kind: str = "AutoEncoder") -> Path:
    trainer = {"dict_class": kind, "k": D, "layer": 0, "lm_name": "m"}
    write_json(folder / "config.json", {"trainer": trainer})
    state = {
        "encoder.weight": W_ENC.T,
        "encoder.bias": ARRAYS["b_enc"],
        "decoder.weight": ARRAYS["W_dec"].T,
        "bias": B_DEC,
    }
    torch.save({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}, folder / "ae.pt")
    return folder


FORMATS = [saelens, before_version_6, gemma_scope, llama_scope, sparsify, dictionary_learning]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return vector_lake(tmp_path / "lake", length=9, dim=D, sites=((0, "resid_post"), (0, "mlp_out")))


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_each_format_computes_what_it_was_written_for(write: Callable[[Path], Path], tmp_path: Path) -> None:
    sae = read_sae(write(tmp_path), None, read_pt)
    f = sae.encode(X)
    centred = X - B_DEC
    scaled = write is llama_scope  # by 2 before it is read, and in bfloat16
    tolerance = 0.05 if scaled else 1e-6
    assert (
        np.abs(f / (2 if scaled else 1) - np.maximum(np.concatenate([centred, -centred], axis=1), 0)).max() < tolerance
    )
    assert np.abs(sae.decode(f, X) - X).max() < tolerance
    assert (sae.d_in, sae.d_sae, sae.d_out) == (D, N, D)
    assert sae.metadata["hook_name"] == "blocks.0.hook_resid_post"


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_an_import_is_a_run_with_a_folder_that_computes_the_same(
    write: Callable[[Path], Path], lake: Lake, tmp_path: Path
) -> None:
    folder = write(tmp_path / "theirs")
    done = import_sae(lake, folder, SaeImport(run="run-00"), read_arrays=read_pt)
    assert done.fvu is not None and done.fvu < 1e-2 and (done.layer, done.site) == (0, "resid_post")
    assert lake.run_status(done.run_id) == "complete" and lake.run_json(done.run_id)["kind"] == "import"
    [row] = lake.sql("select * from saes").to_dicts()
    assert (row["sae_id"], row["d_in"], row["d_sae"], row["site"], row["source"]) == (
        done.sae_id, D, N, "resid_post", done.source,
    )  # fmt: skip
    theirs, ours = read_sae(folder, None, read_pt), load_sae(lake, done.sae_id)
    assert np.abs(ours.reconstruct(torch.from_numpy(X)).numpy() - theirs.decode(theirs.encode(X), X)).max() < 1e-5
    assert export_sae(lake, done.sae_id[:12], tmp_path / "out") == [
        "cfg.json",
        "sae_weights.safetensors",
        "provenance.json",
    ]
    again = read_sae(tmp_path / "out", None, None)
    assert again.activation == theirs.activation and all(
        np.array_equal(again.weights[name], array) for name, array in theirs.weights.items()
    )
    assert lake.verify("deep").problems == []
    with pytest.raises(UsageError, match=f"imported already, as {done.sae_id}"):
        import_sae(lake, folder, SaeImport(run="run-00"), read_arrays=read_pt)


def test_quality_is_that_of_the_definition() -> None:
    sae = read_sae_of(ARRAYS)
    broken = X @ np.diag(np.linspace(0, 2, D)).astype(np.float32)
    error = broken - sae.decode(sae.encode(X), X)
    expected = (error**2).sum() / ((broken - broken.mean(axis=0)) ** 2).sum()
    assert fvu(sae, X, broken) == pytest.approx(float(expected), rel=1e-5)


def read_sae_of(arrays: dict[str, np.ndarray]):
    from tracelake.lake.exchange.sae_weights import SaeWeights, checked

    return checked(SaeWeights("s", "saelens", "relu", arrays, True))


def test_the_scale_of_training_data_is_folded_by_the_lakes_vectors(lake: Lake, tmp_path: Path) -> None:
    x = np.concatenate([vectors for _, vectors in lake.vectors(0, "resid_post", "run-00")])
    scale = D**0.5 / np.linalg.norm(x[np.tile(np.arange(9), len(x) // 9) > 0], axis=1).mean()
    arrays = ARRAYS | {"b_dec": B_DEC * scale}  # what it was in scaled units
    folder = saelens(tmp_path / "s", {k: v.astype(np.float32) for k, v in arrays.items()},
                     normalize_activations="expected_average_only_in")  # fmt: skip
    done = import_sae(lake, folder, SaeImport(run="run-00"))
    assert f"{scale:.4g} by 48 vectors" in done.notices[0]
    ours = load_sae(lake, done.sae_id)
    assert np.allclose(ours.weights["b_dec"].numpy(), B_DEC, rtol=1e-5)
    assert np.allclose(ours.weights["W_enc"].numpy(), W_ENC * scale, rtol=1e-5)


def test_top_k_rescaled_by_decoder_norms_gets_a_unit_decoder(tmp_path: Path) -> None:
    stretched = ARRAYS | {"W_dec": ARRAYS["W_dec"] * 3, "W_enc": W_ENC / 3}
    sae = read_sae(
        saelens(tmp_path, stretched, architecture="topk", k=D, rescale_acts_by_decoder_norm=True), None, None
    )
    assert np.allclose(np.linalg.norm(sae.weights["W_dec"], axis=1), 1)
    assert np.abs(sae.decode(sae.encode(X), X) - X).max() < 1e-5


def test_a_top_k_transcoder_needs_a_threshold(lake: Lake, tmp_path: Path) -> None:
    folder = sparsify(tmp_path, transcode=True, k=5)
    where = {"run": "run-00", "layer": 0, "site": "resid_post", "to_site": "mlp_out"}
    with pytest.raises(ConfigError, match="top-k transcoder.*--as-jumprelu"):
        import_sae(lake, folder, SaeImport(**where, force=True))
    done = import_sae(lake, folder, SaeImport(**where, force=True, as_jumprelu=True))
    assert done.arch == "jumprelu" and done.l0 == pytest.approx(5, abs=0.6)
    [row] = lake.sql("select to_layer, to_site from saes").to_dicts()
    assert row == {"to_layer": 0, "to_site": "mlp_out"}


class Runs:
    """A pickle that would run a command."""

    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/never-made-by-tracelake",)


def test_pt_files_are_read_only_if_allowed_and_only_tensors(lake: Lake, tmp_path: Path) -> None:
    folder = dictionary_learning(tmp_path / "d")
    with pytest.raises(UsageError, match="is a pickle.*--allow-pt"):
        import_sae(lake, folder, SaeImport(run="run-00"))
    torch.save({"bias": Runs()}, folder / "ae.pt")
    with pytest.raises(ConfigError, match="holds more than tensors"):
        import_sae(lake, folder, SaeImport(run="run-00"), read_arrays=read_pt)
    (folder / "ae.pt").write_bytes(pickle.dumps(Runs(), protocol=2))
    with pytest.raises(ConfigError, match="holds more than tensors"):
        read_pt(folder / "ae.pt")
    assert not Path("/tmp/never-made-by-tracelake").exists()


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in ARRAYS.items() if key != name}


def nan(name: str) -> dict[str, np.ndarray]:
    return ARRAYS | {name: np.full_like(ARRAYS[name], np.nan)}


def by_hand(norm: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations and reconstructions of ARRAYS for vectors that are normalised one by one, from the definitions."""
    x = x.astype(np.float64)
    if norm == "layer_norm":
        shift, read, written = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True) + 1e-5, x.std(1, ddof=1)
    else:
        shift, read = 0.0, np.sqrt((x**2).sum(1, keepdims=True) / D)
        written = read[:, 0]
    f = np.maximum(((x - shift) / read - B_DEC) @ W_ENC, 0)
    return f, (f @ W_ENC.T + B_DEC) * written[:, None] + shift


@pytest.mark.parametrize("norm", ["layer_norm", "constant_norm_rescale"])
def test_norms_of_single_tokens_stay_at_run_time(lake: Lake, tmp_path: Path, norm: str) -> None:
    done = import_sae(lake, saelens(tmp_path / "one", normalize_activations=norm), SaeImport())
    sae = load_sae(lake, done.sae_id)
    x = torch.from_numpy(X)
    f, y = by_hand(norm, X)
    assert np.allclose(sae.encode(x).dense().numpy(), f, atol=1e-5)
    assert np.allclose(sae.reconstruct(x).numpy(), y, atol=1e-5)
    assert done.fvu is not None and done.fvu < 1e-6  # every vector is its own reconstruction
    assert json.loads(lake.blob(done.run_id, f"{done.sae_id}/cfg.json"))["normalize_activations"] == norm


@pytest.mark.parametrize("centred", [True, False])
def test_whitening_of_a_checkpoint_is_folded(tmp_path: Path, centred: bool) -> None:
    rng = np.random.default_rng(1)
    matrix, mean = rng.normal(size=(D, D)).astype(np.float32), rng.normal(size=D).astype(np.float32)
    inverse = np.linalg.inv(matrix.astype(np.float64)).astype(np.float32)
    bias = rng.normal(size=N).astype(np.float32)
    folder = saelens(
        tmp_path / "one", ARRAYS | {"b_enc": bias}, normalize_activations="covariance_whitening",
        apply_b_dec_to_input=centred,
    )  # fmt: skip
    save_file({"mean": mean, "matrix": matrix, "inverse_matrix": inverse}, folder / "activation_whitening.safetensors")
    sae = read_sae(folder, None, None)
    white = (X.astype(np.float64) - mean) @ matrix
    f = np.maximum((white - (B_DEC if centred else 0)) @ W_ENC + bias, 0)
    assert sae.norm == "none" and np.allclose(sae.encode(X), f, atol=1e-4)
    assert np.allclose(sae.decode(sae.encode(X), X), (f @ W_ENC.T + B_DEC) @ inverse + mean, atol=1e-3)


BAD: list[tuple[type[LakeError], str, Callable[[Path], Path]]] = [
    (NotFoundError, "no folder", lambda p: p / "none"),
    (UsageError, "in no known format: .*sae_weights.safetensors", lambda p: (p / "e").mkdir() or p / "e"),  # type: ignore[func-returns-value]
    (ConfigError, "lacks W_dec; its weights are W_enc, b_dec, b_enc", lambda p: saelens(p, without("W_dec"))),
    (ConfigError, r"b_enc has the shape \(8,\)", lambda p: saelens(p, ARRAYS | {"b_enc": B_DEC})),
    (ConfigError, "W_enc holds NaN", lambda p: saelens(p, nan("W_enc"))),
    (ConfigError, "architecture 'batchtopk'", lambda p: saelens(p, architecture="batchtopk")),
    (ConfigError, "k is None; it must be between 1 and 15", lambda p: saelens(p, architecture="topk")),
    (ConfigError, "lacks threshold", lambda p: saelens(p, architecture="jumprelu")),
    (
        ConfigError,
        "has a linear path and normalises each token .layer_norm",
        lambda p: saelens(
            p,
            ARRAYS | {"W_skip": np.eye(D, dtype=np.float32)},
            architecture="skip_transcoder",
            normalize_activations="layer_norm",
        ),
    ),
    (ConfigError, "'covariance_whitening'", lambda p: saelens(p, normalize_activations="covariance_whitening")),
    (ConfigError, "one attention head", lambda p: saelens(p, hook_head_index=3)),
    (
        UsageError,
        "'hook_embed', which is no site.*--layer N --site NAME",
        lambda p: saelens(p, metadata={"hook_name": "hook_embed"}),
    ),
    (UsageError, "does not say where it reads", lambda p: saelens(p, metadata={})),
    (ConfigError, "lacks threshold", lambda p: gemma_scope(p, ARRAYS)),
    (ConfigError, "signed top k", lambda p: sparsify(p, signed=True)),
    (ConfigError, "activation 'groupmax'", lambda p: sparsify(p, activation="groupmax")),
    (ConfigError, "class 'Other'", lambda p: dictionary_learning(p, "Other")),
    (ConfigError, "no whole safetensors file", lambda p: cut(saelens(p), "sae_weights.safetensors")),
    (ConfigError, "is not JSON", lambda p: cut(saelens(p), "cfg.json")),
    (ConfigError, "no whole .npz file", lambda p: cut(gemma_scope(p), "params.npz")),
    (
        ConfigError,
        "reconstructs .* worse than their mean",
        lambda p: saelens(p, ARRAYS | {"W_dec": -9 * ARRAYS["W_dec"]}),
    ),
]


def cut(folder: Path, name: str) -> Path:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) * 2 // 3])
    return folder


@pytest.mark.parametrize("error, match, write", BAD, ids=lambda value: value[:24] if isinstance(value, str) else "")
def test_what_is_no_autoencoder_leaves_the_lake_as_it_was(
    error: type[LakeError], match: str, write: Callable[[Path], Path], lake: Lake, tmp_path: Path
) -> None:
    folder = write(tmp_path / "bad") if "no folder" in match else write(made(tmp_path / "bad"))
    with pytest.raises(error, match=match):
        import_sae(lake, folder, SaeImport(run="run-00"), read_arrays=read_pt)
    assert [run["run_id"] for run in lake.runs()] == ["run-00"]


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_vectors_of_another_width_and_places_that_are_not_stored(lake: Lake, tmp_path: Path) -> None:
    folder = saelens(tmp_path / "s", metadata={"hook_name": "blocks.1.hook_resid_post"})
    with pytest.raises(
        NotFoundError, match=r"no vectors of resid_post@1 to try it on.*--keep activations:resid_post@1"
    ):
        import_sae(lake, folder, SaeImport(run="run-00"))
    done = import_sae(lake, folder, SaeImport(run="run-00", force=True))
    assert done.fvu is None and done.layer == 1
    wide = vector_lake(tmp_path / "wide", dim=12)
    with pytest.raises(ConfigError, match="reads vectors of 8 and writes 8; those of run run-00 have 12"):
        import_sae(wide, saelens(tmp_path / "t"), SaeImport(run="run-00"))
