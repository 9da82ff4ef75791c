"""Training from a real lake: resumed bit for bit, together as alone, folders that load, refusals by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sae_lakes import DIM, lake_of, planted
from safetensors.torch import load

from tracelake.analysis.sae.folder import load_sae
from tracelake.analysis.sae.training.learner import RISE, RISING_AFTER, Learner
from tracelake.analysis.sae.training.options import TrainOptions, specs_of
from tracelake.analysis.sae.training.trainer import resume_training, start_training
from tracelake.analysis.sae.training.training_rows import Scaling
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, DamageError, LakeError, NotFoundError, StoppedError, UsageError

FAST = {"tokens": 6000, "batch_size": 256, "commits": 3, "window": 1024, "lr": 3e-3, "dead_after": 500}
VARYING = {"run_id", "tokens_per_s", "wait_share"}


def _rows(lake: Lake, run: str) -> pl.DataFrame:
    return lake.scan("sae_training", run).collect().drop(VARYING).sort("sae_id", "step")


def _weights(lake: Lake, run: str, sae_id: str) -> dict[str, torch.Tensor]:
    return load(lake.blob(run, f"{sae_id}/sae_weights.safetensors"))


def _stop_at(step: int) -> Any:
    calls = iter(range(10**6))
    return lambda: next(calls) >= step


@pytest.mark.parametrize("arch", ["topk", "batchtopk", "gated", "relu"])
def test_a_stopped_training_resumes_bit_for_bit(tmp_path: Path, arch: str) -> None:
    lake = lake_of(tmp_path)
    revived = {"revive": "resample", "sparsities": (20.0,)} if arch == "relu" else {}
    options = TrainOptions(archs=(arch,), widths=("64",), ks=(3,), **FAST, **revived)
    whole = start_training(lake, ["read-0"], options)
    with pytest.raises(StoppedError, match="--resume"):
        start_training(lake, ["read-0"], options, should_stop=_stop_at(12))
    broken = next(row["run_id"] for row in lake.runs() if row["status"] == "interrupted")
    assert lake.scan("sae_training", broken).collect()["step"].max() == 8  # the first of three commits
    resumed = resume_training(lake, broken)
    assert resumed is not None and resume_training(lake, broken) is None
    assert _rows(lake, whole.run_id).drop("sae_id").equals(_rows(lake, broken).drop("sae_id"))
    [[one], [other]] = whole.sae_ids, resumed.sae_ids
    for suffix in ("", ".last"):
        first, second = (_weights(lake, whole.run_id, one + suffix), _weights(lake, broken, other + suffix))
        assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert lake.verify("deep").ok


def test_two_together_equal_each_alone(tmp_path: Path) -> None:
    lake = lake_of(tmp_path)
    both = start_training(lake, ["read-0"], TrainOptions(archs=("topk", "jumprelu"), widths=("64",), ks=(3,), **FAST))
    for sae_id, arch in zip(both.sae_ids, ("topk", "jumprelu"), strict=True):
        alone = start_training(lake, ["read-0"], TrainOptions(archs=(arch,), widths=("64",), ks=(3,), **FAST))
        first, second = _weights(lake, both.run_id, sae_id), _weights(lake, alone.run_id, alone.sae_ids[0])
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_folded_reconstructs_as_in_training(tmp_path: Path) -> None:
    """validation_fvu is of the folder; the formula again from the folder's files in numpy."""
    lake = lake_of(tmp_path)
    trained = start_training(lake, ["read-0"], TrainOptions(archs=("batchtopk",), widths=("64",), ks=(3,), **FAST))
    [sae_id] = trained.sae_ids
    config = json.loads(lake.blob(trained.run_id, f"{sae_id}/cfg.json"))
    assert config["architecture"] == "jumprelu" and config["metadata"]["sae_lens_version"] == "6.54.12"
    w = {name: value.double().numpy() for name, value in _weights(lake, trained.run_id, sae_id).items()}
    x = np.concatenate([v for _, v in lake.vectors(0, "resid_post", "read-0")]).astype(np.float64).reshape(-1, 50, DIM)
    split = lake.scan("sequences", "read-0").collect()["split"].to_numpy()
    held_out, seen = x[split == "validation"][:, 1:].reshape(-1, DIM), x[split == "train"][:, 1:].reshape(-1, DIM)

    def encode(rows: np.ndarray) -> np.ndarray:
        pre = (rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        return pre * (pre > w["threshold"])

    assert (encode(seen) > 0).sum(1).mean() == pytest.approx(3, rel=0.02)
    error = held_out - encode(held_out) @ w["W_dec"] - w["b_dec"]
    fvu = (error**2).sum() / ((held_out - held_out.mean(0)) ** 2).sum()
    # The threshold of the last commit is the exact one over training rows; while training it came from these rows.
    assert fvu == pytest.approx(trained.validation_fvu[0], rel=0.1)
    sae = load_sae(lake, sae_id)
    rows = torch.from_numpy(held_out).float()
    assert np.allclose(sae.encode(rows).dense().numpy(), encode(held_out), atol=1e-4)
    assert torch.equal(sae.reconstruct(held_out.astype(np.float32)), sae.reconstruct(rows))
    with pytest.raises(UsageError, match=f"vectors \\[rows, {DIM}\\]"):
        sae.encode(held_out[:, 1:])
    assert np.allclose(np.linalg.norm(w["W_dec"], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("arch", ["relu", "batchtopk", "jumprelu"])
def test_transcoders_learn_another_site(tmp_path: Path, arch: str) -> None:
    lake = lake_of(tmp_path, sites={(0, "resid_pre"): DIM, (0, "mlp_out"): 12})
    sites: dict[str, Any] = {"site": "resid_pre", "to_site": "mlp_out", "skip": True}
    options = TrainOptions(**sites, archs=(arch,), widths=("64",), ks=(3,), **(FAST | {"tokens": 20_000}))
    trained = start_training(lake, ["read-0"], options)
    sae = load_sae(lake, trained.sae_ids[0])
    assert sae.weights["W_skip"].shape == (12, DIM) and sae.weights["W_dec"].shape == (64, 12)
    assert not sae.centred and trained.validation_fvu[0] < 0.5  # a linear map, which the skip path can learn
    config = json.loads(lake.blob(trained.run_id, f"{trained.sae_ids[0]}/cfg.json"))
    assert config["architecture"] == ("skip_transcoder" if arch == "relu" else "jumprelu_skip_transcoder")
    assert config["d_out"] == 12 and config["metadata"]["hook_name_out"] == "blocks.0.hook_mlp_out"


def test_saes_are_rows_and_leave_with_their_run(tmp_path: Path) -> None:
    lake = lake_of(tmp_path)
    options = TrainOptions(archs=("topk", "relu"), widths=("2x", "64"), ks=(2, 3), seeds=(0, 1), **FAST)
    trained = start_training(lake, ["read-0"], options)
    rows = lake.scan("saes").collect()
    assert len(trained.sae_ids) == 2 * 2 * 2 + 2 * 2 == rows.height
    assert set(rows["sae_id"]) == set(trained.sae_ids) and all(len(one) <= 64 for one in trained.sae_ids)
    lake.remove(trained.run_id, dry_run=False, now=True)
    assert lake.scan("saes").collect().height == 0 and not list(lake.path.rglob("sae_weights.safetensors"))


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"site": "mlp_out"}, NotFoundError, "No run keeps the site 'mlp_out'. Possible: resid_post"),
        ({"layers": (1,)}, NotFoundError, "layer 1 is not stored"),
        ({"ks": (64,), "widths": ("64",)}, UsageError, "below the width, 64"),
        ({"widths": ("wide",)}, UsageError, "--width 'wide'"),
        ({"archs": ("matryoshka",), "nested": (5, 4), "widths": ("64",)}, UsageError, "--nested"),
        ({"archs": ("topk",), "to_site": "resid_post"}, UsageError, "--to-site goes with"),
        ({"ks": (3, 3)}, UsageError, "twice"),
        ({"archs": ("topk",), "revive": "resample"}, UsageError, "is for relu"),
        ({"archs": ("relu",), "revive": "up"}, UsageError, "--revive 'up'"),
        ({"exclude": "last"}, UsageError, "exclude 'last'"),
        ({"validation_runs": ("read-0",)}, ConfigError, "both trained on and validated on"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], kind: type[LakeError], says: str) -> None:
    lake = lake_of(tmp_path)
    with pytest.raises(kind, match=says):
        start_training(lake, ["read-0"], TrainOptions(**({"ks": (3,)} | options)))
    assert [row["kind"] for row in lake.runs()] == ["read"]


def test_runs_that_do_not_go_together(tmp_path: Path) -> None:
    lake = lake_of(tmp_path)
    lake_of(tmp_path, model="n")
    lake_of(tmp_path, sites={(0, "resid_post"): 8})
    for other in ("read-1", "read-2"):
        with pytest.raises(ConfigError, match="model|format"):
            start_training(lake, ["read-0", other], TrainOptions(ks=(3,)))
    assert len(lake.runs()) == 3


def test_a_run_without_validation_rows(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    with lake.start_run("plain", {"kind": "read", "model": {"name": "m"}}) as run, run.segment(0, (0, 1)) as segment:
        segment.append("sequences", {"sequence_id": np.arange(1)})
        keys = {"sequence_id": np.zeros(9, np.int64), "position": np.arange(9, dtype=np.int32), "stack": "decoder"}
        vectors = np.ones((9, 4), np.float32)
        segment.append_vectors(
            "activations", columns=keys, vectors=vectors, dtype="float32", layer=0, site="resid_post"
        )
    with pytest.raises(NotFoundError, match="--validation"):
        start_training(lake, ["plain"], TrainOptions(ks=(2,)))


def test_vectors_that_are_not_finite(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    with lake.start_run("broken", {"kind": "read", "model": {"name": "m"}}) as run, run.segment(0, (0, 1)) as segment:
        segment.append("sequences", {"sequence_id": np.arange(2), "split": ["train", "validation"]})
        keys = {
            "sequence_id": np.repeat([0, 1], 9),
            "position": np.tile(np.arange(9, dtype=np.int32), 2),
            "stack": "decoder",
        }
        vectors = np.ones((18, 4), np.float32)
        vectors[4, 2] = np.nan
        segment.append_vectors(
            "activations", columns=keys, vectors=vectors, dtype="float32", layer=0, site="resid_post"
        )
    with pytest.raises(DamageError, match="NaN"):
        start_training(lake, ["broken"], TrainOptions(ks=(2,)))
    assert [row["status"] for row in lake.runs() if row["kind"] == "sae"] == ["failed"]


def test_what_dies_loses_its_moments_and_is_moved_by_auxk_again() -> None:
    options = TrainOptions(archs=("topk",), widths=("32",), ks=(3,), dead_after=50, batch_size=64, lr=1e-2, warmup=0)
    [spec] = specs_of(options, [0], DIM)
    learner = Learner(spec, "dying", options, Scaling(1.0, 1.0, torch.zeros(DIM, dtype=torch.float64)), 100)
    rows = torch.from_numpy(planted(np.random.default_rng(0), 64, np.eye(DIM), 3))
    learner.step(0, rows, rows)
    with torch.no_grad():
        learner.parameters["b_enc"][5] = -100.0  # nothing switches it on any more
    moments = learner._adam.state[learner.parameters["W_dec"]]["exp_avg_sq"]
    assert not learner.dead[5] and moments[5].abs().sum() > 0
    learner.step(1, rows, rows)
    assert learner.dead[5] and moments[5].abs().sum() == 0 and moments.abs().sum() > 0
    with torch.no_grad():
        learner.parameters["b_enc"][5] = -1.0  # positive before activation on some rows, never among the largest
        before = learner.parameters["W_dec"][5].clone()
    learner.step(2, rows, rows)
    assert learner.dead[5] and not torch.equal(learner.parameters["W_dec"][5], before)


def test_silent_features_rise_until_they_are_among_the_largest() -> None:
    options = TrainOptions(archs=("topk",), widths=("32",), ks=(3,), dead_after=500, batch_size=64, lr=1e-6, warmup=0)
    [spec] = specs_of(options, [0], DIM)
    learner = Learner(spec, "rising", options, Scaling(1.0, 1.0, torch.zeros(DIM, dtype=torch.float64)), 100)
    rows = torch.from_numpy(planted(np.random.default_rng(0), 64, np.eye(DIM), 3))
    bias = learner.parameters["b_enc"].detach()
    with torch.no_grad():
        bias[5] = -2.0
    seen = [float(bias[5])]
    for number in range(100):
        learner.step(number, rows, rows)
        seen.append(float(bias[5]))
    rises = np.diff(seen)
    silent_rows = int(np.flatnonzero(rises > RISE / 2)[0] + 1) * 64  # when it first rises
    assert silent_rows - 64 <= RISING_AFTER * 500 < silent_rows
    assert np.allclose(rises[3:20], RISE, atol=1e-4)  # learning moves it by next to nothing
    with torch.no_grad():
        bias[5] = 50.0  # now it is among them, and rises no more
    for number in range(100, 110):
        learner.step(number, rows, rows)
    assert learner._silent[5] == 0 and float(bias[5]) == pytest.approx(50, abs=1e-3)


def test_resampled_features_are_rows_that_are_badly_explained() -> None:
    chosen: dict[str, Any] = {"dead_after": 50, "batch_size": 64, "lr": 1e-2, "warmup": 0, "revive": "resample"}
    options = TrainOptions(archs=("relu",), widths=("32",), **chosen)
    [spec] = specs_of(options, [0], DIM)
    learner = Learner(spec, "silent", options, Scaling(1.0, 1.0, torch.zeros(DIM, dtype=torch.float64)), 100)
    rows = torch.from_numpy(planted(np.random.default_rng(0), 64, np.eye(DIM), 3))
    rows[7] *= 50  # by far the worst: the square of its squared error is nearly the whole sum
    with torch.no_grad():
        learner.parameters["b_enc"][[5, 9]] = -1e4
    learner.step(0, rows, rows)  # 64 rows without them: dead, and made anew at once
    decoder, encoder = learner.parameters["W_dec"], learner.parameters["W_enc"]
    direction = rows[7] - learner.parameters["b_dec"].detach()
    direction = direction / direction.norm()
    living = [i for i in range(32) if i not in (5, 9)]
    for feature in (5, 9):
        assert torch.allclose(decoder[feature], direction, atol=1e-6) and learner.parameters["b_enc"][feature] == 0
        assert float(encoder[:, feature].detach() @ direction) == pytest.approx(
            0.2 * float(encoder.detach()[:, living].norm(dim=0).mean()), rel=1e-5
        )
        for name in ("W_dec", "b_enc"):
            assert not learner._adam.state[learner.parameters[name]]["exp_avg_sq"][feature].any()
    assert not learner.dead.any() and learner._adam.state[decoder]["exp_avg_sq"][0].any()
    learner.step(1, rows, rows)
    assert learner._silent[5] == learner._silent[9] == 0  # they are active on the row that they were made from


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["topk", "batchtopk", "jumprelu"])
def test_a_planted_dictionary_is_recovered(arch: str) -> None:
    """64 dimensions, 256 directions, 5 active: mean over directions of the largest cosine with a learnt row."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(256, 64))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    pool = torch.from_numpy(planted(rng, 60_000, truth, 5))
    options = TrainOptions(
        archs=(arch,), widths=("256",), ks=(5,), target_l0=5.0, sparsities=(0.5,), lr=3e-3, dead_after=20_000,
        batch_size=512,
    )  # fmt: skip
    [spec] = specs_of(options, [0], 64)
    scale, n_steps = float(8 / pool.norm(dim=1).mean()), 1500
    centre = pool.double().mean(0)
    directions = torch.nn.functional.normalize(pool[:16_384].double() - centre, dim=1).float()
    learner = Learner(spec, "planted", options, Scaling(scale, scale, centre * scale, directions), n_steps)
    draws = torch.Generator().manual_seed(1)
    for step in range(n_steps):
        x = pool[torch.randint(len(pool), (512,), generator=draws)]
        learner.step(step, x, x)
    rows = learner.parameters["W_dec"].detach().double().numpy()
    cosines = (truth @ rows.T) / np.linalg.norm(rows, axis=1)
    assert cosines.max(1).mean() >= 0.9, cosines.max(1).mean()
