"""The lens of the last layer is the model's own prediction; that of others equals the norm and head applied by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from plain_forward import entropy_of, log_probabilities
from random_models import ARCHITECTURES, N_LAYERS, PROMPTS, random_model, save
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.collect import stored_sequences
from tracelake.collect.models.loading.partial import load_readout
from tracelake.collect.rereading.lens import LensOptions, LensResult, analyze_lens
from tracelake.collect.stored_sequences import load_run_model
from tracelake.lake import Lake
from tracelake.lake.analyses import remove_analysis
from tracelake.lake.errors import ConfigError, NotFoundError, UsageError

FINAL = {"gpt2": "transformer.ln_f", "neox": "gpt_neox.final_layer_norm"}


def collected(folder: Path, model: Path | str, **options: object) -> Lake:
    keep = ("tokens", "activations:resid_post")
    settings = {"model": str(model), "prompt": PROMPTS, "max_new_tokens": 5, "keep": keep, "tag": "made"}
    tracelake.collect(folder, **{**settings, **options})
    return Lake.open(folder)


def lens_of(lake: Lake, options: LensOptions | None = None) -> LensResult:
    return analyze_lens(lake, "made", options or LensOptions(), lambda: load_run_model(lake, lake.resolve_run("made")))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "t5", "mbart", "bart"])
def test_the_last_layer_predicts_what_the_run_stored(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lake = collected(tmp_path, model_folder(architecture))
    lens_of(lake)
    both = lake.sql(
        f"select l.*, t.entropy_bits e, t.rank r, t.logprob p, t.top1_prob q, t.topk_ids k from logit_lens l "
        "join token_steps t on t.sequence_id = l.sequence_id and t.position = l.position + 1 "
        f"where l.layer = {N_LAYERS - 1} and t.logprob is not null"
    )
    decoder = "select count(*) from token_steps where stack = 'decoder' and logprob is not null"
    assert both.height == lake.sql(decoder).item()
    for ours, theirs in (("entropy_bits", "e"), ("logprob", "p"), ("top1_prob", "q")):
        np.testing.assert_allclose(both[ours], both[theirs], rtol=1e-4, atol=2e-5)
    assert (both["rank"] == both["r"]).all()
    assert [ids[0] for ids in both["topk_ids"].to_list()] == [ids[0] for ids in both["k"].to_list()]
    assert (both["kl_bits"] == 0).all()


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "neox"])
def test_other_layers_equal_the_norm_and_the_head_by_hand(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lake = collected(tmp_path, model_folder(architecture))
    lens_of(lake, LensOptions(layers=(1,), sequences=(0, 4), topk=3))
    model = random_model(architecture)
    norm = model.get_submodule(FINAL.get(architecture, "model.norm"))
    ids = dict(lake.sql("select sequence_id, list(token_id order by position) from token_steps group by all").rows())
    rows = lake.scan("logit_lens", "made").sort("sequence_id", "position").collect()
    assert set(rows["sequence_id"]) == {0, 4} and set(rows["layer"]) == {1}
    for sequence_id, group in rows.group_by("sequence_id"):
        tokens = ids[sequence_id[0]]
        with torch.no_grad():
            output = model(torch.tensor([tokens]), output_hidden_states=True)
            logits = model.get_output_embeddings()(norm(output.hidden_states[2]))[0]
            cap = getattr(model.config, "final_logit_softcapping", None)
            logits = logits if cap is None else cap * torch.tanh(logits / cap)
        ours, final = log_probabilities(logits.numpy()), log_probabilities(output.logits[0].numpy())
        assert group["position"].to_list() == list(range(len(tokens)))
        np.testing.assert_allclose(group["entropy_bits"], entropy_of(np.exp(ours)), rtol=1e-4, atol=1e-4)
        kl = (np.exp(final) * (final - ours)).sum(-1) / np.log(2)
        np.testing.assert_allclose(group["kl_bits"], kl, rtol=1e-3, atol=1e-4)
        assert kl.max() > 0.5
        actual = ours[np.arange(len(tokens) - 1), tokens[1:]]
        np.testing.assert_allclose(group["logprob"][:-1], actual, rtol=1e-4, atol=1e-4)
        assert group["logprob"][-1] is None and group["rank"][-1] is None and group["entropy_bits"][-1] is not None
        assert group["rank"][:-1].to_list() == [(row > row[t]).sum() for row, t in zip(ours, tokens[1:], strict=False)]
        assert group["topk_ids"].to_list() == np.argsort(-ours, axis=-1, kind="stable")[:, :3].tolist()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "tinymath"])
def test_final_norm_and_unembedding_alone_are_enough(
    architecture: str, model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = architecture if architecture == "tinymath" else model_folder(architecture)
    lake = collected(tmp_path, model)
    whole = lens_of(lake)
    assert any("whole model was loaded" in notice for notice in whole.notices)
    expected = lake.scan("logit_lens").sort("sequence_id", "position", "layer").collect()
    remove_analysis(lake, whole.analysis_id, dry_run=False)
    monkeypatch.setattr(stored_sequences, "load_model", lambda *a, **b: pytest.fail("only a part is needed"))
    result = tracelake.open(tmp_path).lens("made")
    assert result.computed and not result.notices
    rows = lake.scan("logit_lens").sort("sequence_id", "position", "layer").collect()
    assert rows.equals(expected)


def test_a_part_that_does_not_explain_the_run_is_not_used(tmp_path: Path) -> None:
    lake = collected(tmp_path / "lake", save(random_model("gpt2"), tmp_path / "model"))
    wrong = load_readout(str(save(random_model("gpt2", seed=1), tmp_path / "other")), dtype="float32", device="cpu")
    assert wrong is not None
    loaded = load_run_model(lake, lake.resolve_run("made"))
    result = analyze_lens(lake, "made", LensOptions(), lambda: loaded, load_readout=lambda: wrong)
    assert any("whole model was loaded" in notice for notice in result.notices)


def test_asked_again_it_is_found_and_loads_no_model(tmp_path: Path) -> None:
    lake = collected(tmp_path, "tinymath", prompt=("What is 3 + 4?",))
    first = lens_of(lake)
    again = analyze_lens(lake, "made", LensOptions(), lambda: pytest.fail("a look-up loads no model"))
    assert first.computed and not again.computed and again.n_rows == first.n_rows > 0
    result = CliRunner().invoke(app, ["analyze", "lens", "made", "--lake", str(tmp_path)])
    assert result.exit_code == 0 and first.analysis_id in result.stdout


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    lake = collected(tmp_path / "few", "tinymath", keep=("tokens", "activations:resid_post@2,-1"), prompt=("a",))
    for options, error, words in (
        (LensOptions(layers=(3,)), NotFoundError, "kept no resid_post of layer 3. Kept: 2, 5"),
        (LensOptions(sequences=(7,)), NotFoundError, "no sequence 7"),
        (LensOptions(topk=0), UsageError, "--topk must be at least 1"),
    ):
        with pytest.raises(error, match=words):
            lens_of(lake, options)
    assert lens_of(lake).layers == [2, 5]
    bare = collected(tmp_path / "bare", "tinymath", keep=("tokens",), prompt=("a",))
    with pytest.raises(NotFoundError, match="no resid_post of layer 5 .* lake collect --continue"):
        lens_of(bare)
    assert bare.scan("analyses").collect().height == 0


def test_states_of_another_model_are_noticed(tmp_path: Path) -> None:
    """Weights of a hub model have no checksum in the run: then the stored log-probabilities tell."""
    lake = collected(tmp_path / "lake", save(random_model("gpt2"), tmp_path / "model"))
    save(random_model("gpt2", seed=1), tmp_path / "other")
    from tracelake.collect.models.loading.load import load_model

    with pytest.raises(ConfigError, match="do not predict what the run stored"):
        analyze_lens(lake, "made", LensOptions(), lambda: load_model(str(tmp_path / "other"), device="cpu"))
    assert lake.scan("logit_lens").select(pl.len()).collect().item() == 0
