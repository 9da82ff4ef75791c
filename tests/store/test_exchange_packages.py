"""The real packages on the other side: what they write we read alike, what we write they load and compute alike.

`make exchange` installs each into an environment of its own and says where they are; without them nothing here runs.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dashboard_lake import SAE, dashboard_lake
from sae_lakes import DIM, lake_of

from tracelake.analysis.sae.architecture import ARCHS, TRANSCODING
from tracelake.analysis.sae.folder import load_sae
from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import start_training
from tracelake.facade.sae_evaluation import EvaluationOptions, evaluate
from tracelake.lake import Lake
from tracelake.lake.exchange.sae_export import export_sae
from tracelake.lake.exchange.sae_import import read_sae
from tracelake.lake.exchange.sae_weights import SaeWeights
from tracelake.lake.exchange.saedashboard.writing import export_dashboard
from tracelake.lake.exchange.saelens.writing import VERSION, saelens_files
from tracelake.lake.shuffling.sampler import Sampler

HERE = Path(__file__).parents[1]
ENVIRONMENTS = os.environ.get("LAKE_TEST_EXCHANGE")
pytestmark = pytest.mark.skipif(ENVIRONMENTS is None, reason="`make exchange` runs these")
TOLERANCE = 1e-5


def other_side(package: str, script: str, *arguments: str) -> None:
    python = Path(str(ENVIRONMENTS)) / package / "bin" / "python"
    done = subprocess.run([python, HERE / script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def arrays(path: Path) -> Mapping[str, np.ndarray]:
    return {name: value.numpy() for name, value in torch.load(path, weights_only=True, map_location="cpu").items()}


def prepared(sae: SaeWeights, x: np.ndarray) -> SaeWeights:
    return sae.scaled(sae.d_in**0.5 / float(np.linalg.norm(x, axis=1).mean())) if sae.norm == "scale" else sae


def check(sae: SaeWeights, folder: Path) -> None:
    x, f, y = (np.load(folder / f"{name}.npy") for name in ("x", "f", "y"))
    x = x.reshape(len(x), -1)
    sae = prepared(sae, x)
    found = sae.encode(x)
    assert np.abs(found - f).max() <= TOLERANCE * max(1.0, np.abs(f).max()), folder.name
    assert np.abs(sae.decode(found, x) - y).max() <= TOLERANCE * max(1.0, np.abs(y).max()), folder.name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    other_side("saelens", "saelens_side.py", "make", str(root))
    other_side("sparsify", "sparsify_side.py", "make", str(root / "sparsify"))
    return root


@pytest.mark.parametrize("form, n", [("saelens", 15), ("dictionary_learning", 7), ("sparsify", 4)])
def test_what_they_write_is_read_and_computes_alike(made: Path, form: str, n: int) -> None:
    folders = sorted((made / form).iterdir())
    assert len(folders) == n
    for folder in folders:
        sae = read_sae(folder, None, arrays)
        assert sae.source == form
        check(sae, folder)


def test_what_we_write_loads_in_saelens_and_computes_alike(made: Path, tmp_path: Path) -> None:
    """Every kind that it has, from every format that we read; top-k transcoders have no class there."""
    written = []
    for folder in sorted(
        [*(made / "saelens").iterdir(), *(made / "dictionary_learning").iterdir(), *(made / "sparsify").iterdir()]
    ):
        x = np.load(folder / "x.npy").reshape(40, -1)
        sae = prepared(read_sae(folder, None, arrays), x)
        if sae.activation == "topk" and sae.transcodes:
            continue
        target = tmp_path / f"{sae.source}_{folder.name}"
        target.mkdir()
        for name, data in saelens_files(sae, {}, hook_shape=True).items():
            (target / name).write_bytes(data)
        np.save(target / "x.npy", x)
        written.append((sae, target))
    assert len(written) == 24
    other_side("saelens", "saelens_side.py", "load", *(str(target) for _, target in written))
    for sae, target in written:
        check(sae, target)
        metadata = json.loads((target / "metadata.json").read_text())
        assert metadata["sae_lens_version"] == VERSION
        assert metadata["hook_name"] == sae.metadata["hook_name"]


def trained_folders(lake: Lake, folder: Path) -> list[str]:
    """Every architecture, and every transcoder with and without its linear path, as a training writes them."""
    common: dict[str, Any] = {"widths": ("48",), "ks": (3,), "tokens": 4000, "batch_size": 256, "commits": 2}
    ids: list[str] = []
    sites = {"site": "resid_pre", "to_site": "mlp_out"}
    for chosen in (
        {"site": "resid_pre", "archs": ARCHS},
        {**sites, "archs": TRANSCODING},
        {**sites, "archs": TRANSCODING, "skip": True},
    ):
        ids += start_training(lake, ["read-0"], TrainOptions(**common, **chosen)).sae_ids
    pairs = Sampler(lake, ["read-0"], 0, "resid_pre", 500, seed=0, exclude="first", to=(0, "mlp_out")).pairs(0)
    x, y = (np.concatenate(side).astype(np.float32) for side in zip(*pairs, strict=True))
    for sae_id in ids:
        export_sae(lake, sae_id, folder / sae_id)
        np.save(folder / sae_id / "x.npy", x)
        if load_sae(lake, sae_id).about["to_site"]:
            np.save(folder / sae_id / "target.npy", y)
    return ids


def test_what_we_train_loads_in_saelens_as_it_is_and_explains_as_much(tmp_path: Path) -> None:
    """Codes and reconstructions of the same vectors alike; FVU = 1 - explained variance of SAELens's calculator."""
    lake = lake_of(tmp_path / "lake", sites={(0, "resid_pre"): DIM, (0, "mlp_out"): 12}, n=20)
    ids = trained_folders(lake, tmp_path)
    assert len(ids) == 7 + 3 + 3
    other_side("saelens", "saelens_side.py", "load", *(str(tmp_path / one) for one in ids))
    for sae_id in ids:
        folder, sae = tmp_path / sae_id, load_sae(lake, sae_id)
        x, f, y = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("x", "f", "y"))
        code = sae.encode(x)
        assert (code.dense() - f).abs().max() <= TOLERANCE * max(1.0, float(f.abs().max())), sae_id
        assert (sae.decode(code, x) - y).abs().max() <= TOLERANCE * max(1.0, float(y.abs().max())), sae_id
        fvu = evaluate(lake, sae_id, "read-0", EvaluationOptions(with_model=False)).metrics["fvu"]
        assert fvu == pytest.approx(1 - json.loads((folder / "explained.json").read_text()), rel=1e-4), sae_id


def test_classes_of_saedashboard_take_our_records_as_they_are(tmp_path: Path) -> None:
    done = export_dashboard(dashboard_lake(tmp_path / "lake"), SAE, tmp_path / "out", run="run-00")
    ours = tmp_path / "out" / done.files[0]
    other_side("dashboard", "dashboard_side.py", str(ours), str(tmp_path / "theirs.json"))
    assert json.loads((tmp_path / "theirs.json").read_text()) == json.loads(ours.read_text())
