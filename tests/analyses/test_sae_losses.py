"""Cross-entropy and KL with a site replaced, against a plain hook on the bare model, sequence by sequence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lakes import tinymath_lake
from torch.nn import functional as F

from tracelake.analysis.sae.folder import load_sae
from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import start_training
from tracelake.collect.models.loading.load import load_model
from tracelake.facade.sae_evaluation import EvaluationOptions, evaluate
from tracelake.lake import Lake

LAYER = 2


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    made = tinymath_lake(tmp_path_factory.mktemp("lake"), n=24)
    options = TrainOptions(
        layers=(LAYER,), archs=("topk",), widths=("96",), ks=(6,), tokens=8000, batch_size=512, lr=4e-3,
        validation_runs=("check",), commits=1,
    )  # fmt: skip
    start_training(made, ["read"], options)
    return made


def _logits(model: torch.nn.Module, ids: torch.Tensor, replace: Any) -> torch.Tensor:
    """Logits of one sequence, the output of the block put through `replace` from position 1 on."""

    def hook(module: Any, args: Any, output: Any) -> Any:
        states = output if isinstance(output, torch.Tensor) else output[0]
        changed = torch.cat([states[:, :1], replace(states[:, 1:])], dim=1)
        return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

    handle = model.transformer.h[LAYER].register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model(ids.unsqueeze(0)).logits[0].double()
    finally:
        handle.remove()


def test_losses_equal_those_of_a_plain_hook(lake: Lake) -> None:
    sae = load_sae(lake, "tinymath")
    found = evaluate(lake, "tinymath", "check", EvaluationOptions())
    tokens = lake.scan("token_steps", "check").collect().sort("sequence_id", "position")
    vectors = torch.cat(
        [torch.from_numpy(v.copy())[torch.from_numpy(k["position"].to_numpy() > 0)]
         for k, v in lake.vectors(LAYER, "resid_post", "check")]
    )  # fmt: skip
    mean = vectors.double().mean(0).float()
    model = load_model("tinymath").model
    changes = {
        "clean": lambda states: states,
        "reconstruction": lambda states: sae.reconstruct(states[0]).unsqueeze(0),
        "zero": torch.zeros_like,
        "mean": lambda states: mean.expand_as(states),
    }
    losses, divergences, n = dict.fromkeys(changes, 0.0), dict.fromkeys(changes, 0.0), 0
    for [_], rows in tokens.group_by("sequence_id"):
        ids = torch.tensor(rows["token_id"].to_list())
        n += len(ids) - 2
        clean = _logits(model, ids, changes["clean"])[1:-1].log_softmax(-1)
        for name, change in changes.items():
            given = _logits(model, ids, change)[1:-1].log_softmax(-1)
            losses[name] += float(F.nll_loss(given, ids[2:], reduction="sum"))
            divergences[name] += float(F.kl_div(given, clean, log_target=True, reduction="sum"))
    row = lake.scan("sae_evaluations", "check").collect().to_dicts()[0]
    assert row["n_ce"] == n
    for name in changes:
        assert row[f"sum_ce_{name}"] == pytest.approx(losses[name], rel=1e-4), name
        if name != "clean":
            assert row[f"sum_kl_{name}"] == pytest.approx(divergences[name], rel=1e-3), name
    assert found.metrics["ce_increase_nats"] == pytest.approx(
        (losses["reconstruction"] - losses["clean"]) / n, rel=1e-3
    )
    assert losses["zero"] > losses["reconstruction"] > losses["clean"]


def test_an_evaluation_is_found_again_and_one_without_a_model_says_so(lake: Lake) -> None:
    first = evaluate(lake, "tinymath", "check", EvaluationOptions(with_model=False))
    again = evaluate(lake, "tinymath", "check", EvaluationOptions(with_model=False))
    assert first.computed and not again.computed and first.metrics == again.metrics
    assert first.metrics["ce_increase_nats"] is None and "no model" in first.metrics["reason"]


def test_another_width_is_refused(lake: Lake, tmp_path: Path) -> None:
    from tracelake.collect.models.editing.changes import Mean
    from tracelake.collect.rereading.site_loss import site_losses
    from tracelake.lake.errors import ConfigError

    loaded = load_model("tinymath")
    with pytest.raises(ConfigError, match="elements"):
        site_losses(lake, lake.resolve_run("check"), loaded, "resid_post", LAYER, {"mean": Mean(torch.ones(7))}, [0])
