"""A finite state that the stored number format cannot hold is refused, never stored as infinity."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import PROMPTS, random_model, save

from tracelake import cli
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.observing.observation import largest_lost, narrows
from tracelake.collect.running.collector import Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError

LAYER = 1
LARGE = 1e6


@pytest.fixture(scope="module")
def large_states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose states from layer 1 on are of the size of 1e6, finite in float32."""
    model = random_model("llama")
    with torch.no_grad():
        model.model.layers[LAYER].mlp.down_proj.weight.mul_(LARGE)
    return save(model, tmp_path_factory.mktemp("large"))


def settings(folder: Path, **changes: object) -> CollectConfig:
    defaults = {
        "model": str(folder), "prompt": PROMPTS, "max_new_tokens": 4, "device": "cpu", "segment_items": 2,
        "keep": ("tokens", "layers", "activations:resid_post"),
    }  # fmt: skip
    return CollectConfig(**{**defaults, **changes})


def test_float16_refuses_states_that_are_too_large(large_states: Path, tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    with pytest.raises(ConfigError, match=r"layer 1, resid_post.*float16.*--store-dtype bfloat16 or float32") as error:
        Collection(settings(large_states, store_dtype="float16")).start(lake)
    (run,) = lake.runs()
    assert run["status"] == "failed" and run["error"] == str(error.value)
    assert lake.verify("deep").ok
    assert lake.sql("select count(*) n from activations").item() == 0, "nothing of the segment is visible"
    with pytest.raises(ConfigError, match="layer 1"):
        resume_run(lake, run["run_id"])
    assert lake.runs()[0]["status"] == "failed"


def test_segments_before_the_large_state_stay(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    """A single token is large: what was committed before it was met can be read."""
    model = random_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[4] = 7e4
    folder = save(model, tmp_path / "model")
    from transformers import AutoTokenizer

    token = AutoTokenizer.from_pretrained(folder).decode([4])
    lake = Lake.create(tmp_path / "lake")
    config = settings(
        folder, prompt=("Mia", f"Mia{token}Mia"), segment_items=1, store_dtype="float16", max_new_tokens=0
    )
    with pytest.raises(ConfigError, match="float16"):
        Collection(config).start(lake)
    assert lake.sql("select distinct sequence_id from activations")["sequence_id"].to_list() == [0]
    assert np.isfinite(np.concatenate([matrix for _, matrix in lake.vectors(0, "resid_post")])).all()


@pytest.mark.parametrize("store", ["float32", "bfloat16"])
def test_wider_formats_hold_them(large_states: Path, tmp_path: Path, store: str) -> None:
    lake = Lake.create(tmp_path)
    Collection(settings(large_states, store_dtype=store)).start(lake)
    vectors = np.concatenate([matrix for _, matrix in lake.vectors(LAYER, "resid_post")])
    assert np.isfinite(vectors).all() and np.abs(vectors).max() > LARGE
    assert lake.sql("select sum(n_inf) n from layer_summaries").item() == 0
    counted = lake.sql("select max(max_abs) m from layer_summaries where layer = 1 and site = 'resid_post'").item()
    assert counted == pytest.approx(np.abs(vectors).max(), rel=2**-8)


@pytest.mark.parametrize("site", ["z@2", "mlp_out@1", "rot_q@2", "final_norm"])
def test_every_site_is_checked(tmp_path: Path, site: str) -> None:
    model = random_model("llama")
    with torch.no_grad():
        for name in ("v_proj", "q_proj"):
            getattr(model.model.layers[2].self_attn, name).weight.mul_(LARGE)
        model.model.layers[1].mlp.down_proj.weight.mul_(LARGE)
        model.model.norm.weight.mul_(LARGE)
    folder = save(model, tmp_path / "model")
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(ConfigError, match=rf"{site.split('@')[0]}: .*float16"):
        Collection(settings(folder, store_dtype="float16", keep=(f"activations:{site}",))).start(lake)


def test_infinities_of_the_model_itself_are_stored_and_counted(tmp_path: Path) -> None:
    model = random_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[4] = torch.inf
    folder = save(model, tmp_path / "model")
    from transformers import AutoTokenizer

    prompt = "Mia" + AutoTokenizer.from_pretrained(folder).decode([4])
    lake = Lake.create(tmp_path / "lake")
    keep = ("layers", "activations:resid_pre@0")
    Collection(settings(folder, prompt=(prompt,), max_new_tokens=0, store_dtype="float16", keep=keep)).start(lake)
    vectors = np.concatenate([matrix for _, matrix in lake.vectors(0, "resid_pre")])
    assert (
        np.isinf(vectors).sum()
        == 48
        == lake.sql("select sum(n_inf) n from layer_summaries where site = 'resid_pre'").item()
    )


def test_the_command_says_so(
    large_states: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--lake", str(tmp_path), "--model", str(large_states), "--prompt", "Mia", "--max-new-tokens", "2"]
    monkeypatch.setattr("sys.argv", ["lake", "collect", *call, "--store-dtype", "float16"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    errors = capsys.readouterr().err
    assert ended.value.code == 4 and "resid_post" in errors and "Traceback" not in errors


def test_which_value_counts() -> None:
    halves, wide = torch.float16, torch.float32
    values = torch.tensor([[65_504.0, 65_519.0, -65_520.0, 1e30, torch.inf, -torch.inf, torch.nan]])
    assert largest_lost(values, values.to(halves)).item() == pytest.approx(1e30)
    assert largest_lost(values[:, :2], values[:, :2].to(halves)).item() == 0, "both are rounded to the largest one"
    assert largest_lost(values[:, 4:], values[:, 4:].to(halves)).item() == 0
    assert largest_lost(values[:0], values[:0].to(halves)).item() == 0
    top = torch.tensor([[3.4e38]])
    assert narrows(wide, torch.bfloat16) and largest_lost(top, top.to(torch.bfloat16)).item() > 3e38
    assert narrows(torch.bfloat16, halves) and narrows(wide, halves)
    assert not narrows(halves, torch.bfloat16) and not narrows(halves, wide) and not narrows(wide, wide)
