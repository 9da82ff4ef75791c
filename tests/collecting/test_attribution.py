"""Contributions add up to the model's own difference of logits, part by part and head by head."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from random_models import ARCHITECTURES, N_HEADS, N_LAYERS, PROMPTS, random_model, save

import tracelake
from tracelake.collect.models.model import LoadedModel
from tracelake.collect.rereading.attribution import Attribution, analyze_attribution, needed_sites
from tracelake.collect.rereading.points import PointOptions
from tracelake.collect.stored_sequences import load_run_model
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError

KEPT = ("tokens", "activations:resid_pre@0", "activations:attn_out", "activations:mlp_out", "activations:z",
        f"activations:resid_post@{N_LAYERS - 1}")  # fmt: skip


def collected(folder: Path, model: Path, **options: object) -> Lake:
    tracelake.collect(
        folder, **{"model": str(model), "prompt": PROMPTS, "max_new_tokens": 5, "keep": KEPT, "tag": "made", **options}
    )
    return Lake.open(folder)


def attributed(lake: Lake, options: PointOptions, **more: object) -> pl.DataFrame:
    run_id = lake.resolve_run("made")
    result = analyze_attribution(lake, "made", options, lambda: load_run_model(lake, run_id), **more)
    assert result.computed and result.n_rows > 0
    return lake.scan("logit_contributions", run_id).filter(pl.col("analysis_id") == result.analysis_id).collect()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_and_heads_add_up(architecture: str, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, model_folder(architecture))
    rows = attributed(lake, PointOptions(closest=None), by_head=True)
    points = ["sequence_id", "position", "token_a", "token_b"]
    kinds = {"embedding": 1, "bias": 1, "attn_out": N_LAYERS, "mlp_out": N_LAYERS, "attn_bias": N_LAYERS}
    kinds["head"] = N_LAYERS * N_HEADS
    n_points = rows.select(points).n_unique()
    assert dict(rows.group_by("part").len().rows()) == {kind: n * n_points for kind, n in kinds.items()}
    whole = rows.filter(~pl.col("part").is_in(["head", "attn_bias"])).group_by(points).agg(
        pl.col("contribution").sum(), pl.col("logit_diff_uncapped").first(), pl.col("logit_diff").first()
    )  # fmt: skip
    gap = (whole["contribution"] - whole["logit_diff_uncapped"]).abs()
    assert gap.max() < 1e-3 and whole["logit_diff_uncapped"].abs().max() > 0.1
    attention = rows.filter(pl.col("part") == "attn_out").select(*points, "layer", whole="contribution")
    heads = rows.filter(pl.col("part").is_in(["head", "attn_bias"])).group_by(*points, "layer").agg(
        pl.col("contribution").sum()
    )  # fmt: skip
    both = attention.join(heads, on=[*points, "layer"])
    assert both.height == attention.height
    np.testing.assert_allclose(both["contribution"], both["whole"], atol=1e-3)
    # The model's own logits, from one plain pass per sequence.
    plain = random_model(architecture)
    ids = dict(lake.sql("select sequence_id, list(token_id order by position) from token_steps group by all").rows())
    for sequence_id, position, a, b, diff in whole.select(*points, "logit_diff").rows():
        with torch.no_grad():
            logits = plain(torch.tensor([ids[sequence_id][: position + 1]])).logits[0, -1]
        assert float(logits[a] - logits[b]) == pytest.approx(diff, abs=2e-3)
        assert logits[a] == logits.max(), "token a is the best one"
    capped = (whole["logit_diff"] - whole["logit_diff_uncapped"]).abs().max()
    assert capped > 0.05 if architecture == "gemma2" else capped < 1e-6


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "neox"])
def test_states_that_were_not_kept_come_from_the_model(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    options = PointOptions(sequences=(0, 3), closest=4)
    kept = attributed(collected(tmp_path / "kept", model_folder(architecture)), options, by_head=True)
    lake = collected(tmp_path / "bare", model_folder(architecture), keep=("tokens",))
    again = attributed(lake, options, by_head=True)
    notices = lake.scan("analyses", "made").collect()["notices"][0]
    assert "has read the sequences again" in notices
    keys = ["sequence_id", "position", "part", "layer", "head"]
    both = kept.join(again, on=[*keys, "token_a", "token_b"], nulls_equal=True)
    assert both.height == kept.height == again.height
    np.testing.assert_allclose(both["contribution"], both["contribution_right"], rtol=1e-3, atol=1e-4)


def test_a_contribution_is_what_removing_the_part_takes_away(tmp_path: Path) -> None:
    """By hand, GPT-2: the frozen norm applied to the residual stream without one head's output."""
    model = random_model("gpt2")
    lake = collected(tmp_path / "lake", save(model, tmp_path / "model"))
    rows = attributed(lake, PointOptions(sequences=(0,), steps=(2,), closest=None), by_head=True)
    position, a, b = rows.select("position", "token_a", "token_b").row(0)
    tokens = lake.sql("select token_id from token_steps where sequence_id = 0 order by position")["token_id"].to_list()
    z: list[torch.Tensor] = []
    hook = model.transformer.h[1].attn.c_proj.register_forward_pre_hook(lambda m, args: z.append(args[0]))
    end: list[torch.Tensor] = []
    tail = model.transformer.ln_f.register_forward_pre_hook(lambda m, args: end.append(args[0]))
    with torch.no_grad():
        model(torch.tensor([tokens[: position + 1]]))
    hook.remove(), tail.remove()
    x, head, width = end[0][0, -1].double(), 2, z[0].shape[-1] // N_HEADS
    weight = model.transformer.h[1].attn.c_proj.weight.double()
    part = z[0][0, -1].double()[head * width : (head + 1) * width] @ weight[head * width : (head + 1) * width]
    scale = (x.var(unbiased=False) + model.transformer.ln_f.eps).sqrt()
    v = (model.lm_head.weight[a] - model.lm_head.weight[b]).double()
    taken = (v @ (model.transformer.ln_f.weight.double() * (part - part.mean()) / scale)).detach()
    stored = rows.filter((pl.col("part") == "head") & (pl.col("layer") == 1) & (pl.col("head") == head))
    assert stored["contribution"].item() == pytest.approx(float(taken), rel=1e-4, abs=1e-5)


def test_points_outside_of_what_was_kept_are_read_again(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    keep = ("tokens", *(f"{item}:last" for item in KEPT[1:]))
    lake = collected(tmp_path / "last", model_folder("gpt2"), keep=keep)
    rows = attributed(lake, PointOptions(sequences=(0,), closest=None))
    kept = attributed(collected(tmp_path / "all", model_folder("gpt2")), PointOptions(sequences=(0,), closest=None))
    assert rows.height == kept.height and "read the sequences again" in lake.scan("analyses").collect()["notices"][0]


def test_named_tokens_and_the_closest_points(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, model_folder("llama"))
    rows = attributed(lake, PointOptions(closest=3))
    margins = lake.sql(
        "select sequence_id, position - 1 as position from token_steps where step is not null order by margin limit 3"
    )
    assert set(rows.select("sequence_id", "position").rows()) == set(margins.rows())
    named = attributed(lake, PointOptions(closest=None, tokens=(5, 9), sequences=(1,)))
    assert set(named.select("token_a", "token_b").rows()) == {(5, 9)} and named["position"].n_unique() == 5
    again = analyze_attribution(lake, "made", PointOptions(closest=3), lambda: pytest.fail("a look-up loads no model"))
    assert not again.computed and again.n_rows == rows.height


def test_what_cannot_be_is_named(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path / "lake", model_folder("gpt2"))
    for options, error, words in (
        (PointOptions(sequences=(99,)), NotFoundError, "no sequence with generated tokens 99; there are 0 to 4"),
        (PointOptions(steps=(50,)), NotFoundError, "no step 50; there are 0 to"),
        (PointOptions(tokens=(1, 10_000)), UsageError, "There is no token 10000"),
        (PointOptions(tokens=(4, 4)), UsageError, "not 4 with itself"),
        (PointOptions(closest=0), UsageError, "at least 1"),
    ):
        with pytest.raises(error, match=words):
            analyze_attribution(lake, "made", options, lambda: pytest.fail("not needed"))
    assert lake.scan("analyses").collect().height == 0
    read = collected(tmp_path / "read", model_folder("gpt2"), max_new_tokens=0, keep=("tokens",))
    with pytest.raises(NotFoundError, match="generated no tokens"):
        analyze_attribution(read, "made", PointOptions(), lambda: pytest.fail("not needed"))


def test_an_encoder_and_post_norm_blocks_are_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, model_folder("t5"), keep=("tokens",))
    with pytest.raises(ConfigError, match="reads an encoder"):
        analyze_attribution(lake, "made", PointOptions(), lambda: load_run_model(lake, lake.resolve_run("made")))
    assert lake.scan("analyses").collect().height == 0


def test_post_norm_blocks_are_refused(tmp_path: Path) -> None:
    from random_models import byte_tokenizer
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=300, hidden_size=48, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=48,
        max_position_embeddings=96, do_layer_norm_before=False,
    )  # fmt: skip
    folder = save(OPTForCausalLM(config).eval(), tmp_path / "model", byte_tokenizer())
    lake = collected(tmp_path / "lake", folder, keep=("tokens",))
    with pytest.raises(ConfigError, match="post-norm|cannot be observed"):
        analyze_attribution(lake, "made", PointOptions(), lambda: load_run_model(lake, lake.resolve_run("made")))


def test_the_sum_is_checked(model_folder: Callable[[str], Path]) -> None:
    """A part that is missing from the states is noticed, not reported as zero."""
    from tracelake.collect.models.loading.load import load_model

    loaded: LoadedModel = load_model(str(model_folder("gpt2")), device="cpu")
    attribution = Attribution(loaded, by_head=False)
    states = {key: torch.randn(2, loaded.d_model) for key in needed_sites(N_LAYERS, by_head=False)}
    with pytest.raises(ConfigError, match="do not add up"):
        attribution.parts(states, torch.tensor([1, 2]), torch.tensor([3, 4]))
