"""Second-order effects and neuron ranks of stored runs: equal to plain passes, resumable, and refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from random_models import D_MODEL, D_VOCAB, N_HEADS, N_LAYERS, PROMPTS, random_model
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.rereading.directions import Direction, checked_direction, find_direction, read_direction
from tracelake.collect.rereading.neurons import rank_neurons
from tracelake.collect.rereading.second_order import effects as module
from tracelake.collect.rereading.second_order.effects import second_order
from tracelake.collect.rereading.second_order.frozen_pass import read_frozen
from tracelake.collect.rereading.second_order.head_paths import HeadPaths
from tracelake.collect.rereading.second_order.scorer import Scorer, SecondOrderOptions
from tracelake.collect.stored_sequences import StoredBatch, load_run_model
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError

VECTOR = np.random.default_rng(3).normal(size=D_MODEL)


def collected(folder: Path, model: Path | str, **options: object) -> Lake:
    settings = {"model": str(model), "prompt": PROMPTS, "max_new_tokens": 4, "keep": ("tokens",), "tag": "made"}
    tracelake.collect(folder, **{**settings, **options})
    return Lake.open(folder)


def scored(lake: Lake, options: SecondOrderOptions, direction: Direction | None = None) -> module.SecondOrderResult:
    run_id = lake.resolve_run("made")
    direction = direction or checked_direction("drawn", VECTOR)
    return second_order(lake, "made", direction, options, lambda: load_run_model(lake, run_id, dtype="float32"))


def vectors(lake: Lake, analysis_id: str) -> dict[tuple[int, int, str], np.ndarray]:
    rows = lake.sql(
        f"select sequence_id, layer, effect, total, vector from second_order_scores where analysis_id = '{analysis_id}'"
    )
    for row in rows.iter_rows(named=True):
        assert row["total"] == pytest.approx(sum(row["vector"]), rel=1e-4, abs=1e-4)
    return {(r["sequence_id"], r["layer"], r["effect"]): np.array(r["vector"]) for r in rows.iter_rows(named=True)}


@pytest.mark.parametrize("at", ["prompt", "answer"])
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_rows_are_the_scores_of_each_sequence_alone(
    architecture: str, at: str, model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lake = collected(tmp_path, model_folder(architecture))
    result = scored(lake, SecondOrderOptions(at=at, by_token=True, by_head=True, top=D_VOCAB))
    stored = vectors(lake, result.analysis_id)
    loaded = load_run_model(lake, lake.resolve_run("made"))
    paths = HeadPaths(loaded, torch.from_numpy(VECTOR))
    ends = dict(
        lake.sql(
            "select sequence_id, n_prompt_tokens - 1 + case when $1 = 'answer' then n_generated_tokens - "
            "(finish_reason = 'eos')::int else 0 end from sequences where $1 = 'prompt' or n_generated_tokens > "
            "(finish_reason = 'eos')::int",
            [at],
        ).rows()
    )
    assert {key[0] for key in stored} == set(ends) and len(stored) == 2 * N_LAYERS * len(ends)
    ids = dict(lake.sql("select sequence_id, list(token_id order by position) from token_steps group by all").rows())
    tokens = lake.scan("second_order_tokens", "made").collect()
    sums = np.zeros((N_LAYERS, N_LAYERS, N_HEADS))
    for sequence_id, end in ends.items():
        alone = Sequence(sequence_id, 0, 0, np.array(ids[sequence_id][: end + 1]))
        batch = StoredBatch(loaded, [alone], choose(loaded))
        scores = list(Scorer(paths, SecondOrderOptions(by_head=True)).scores(read_frozen(paths, batch)))
        for one in scores:
            size = max(1.0, float(one.second.abs().max()))
            key = (sequence_id, one.layer, "second_order")
            np.testing.assert_allclose(stored[key], one.second[0], rtol=1e-3, atol=1e-4 * size)
            np.testing.assert_allclose(stored[*key[:2], "direct"], one.direct[0], rtol=1e-3, atol=1e-3)
            by_token = tokens.filter(sequence_id=sequence_id, layer=one.layer).sort("position")
            assert by_token["position"].to_list() == list(range(end + 1))
            assert by_token["score"].sum() == pytest.approx(float(one.second.sum()), rel=1e-3, abs=1e-2)
            if one.heads is not None:
                sums[one.layer, one.layer + 1 :] += one.heads[0].sum(-1).unflatten(0, (-1, N_HEADS)).numpy()
    heads = lake.scan("second_order_heads", "made").collect()
    assert set(heads["n_sequences"]) == {len(ends)}
    whole = heads.group_by("layer_from", "layer_to", "head").agg(pl.col("mean").sum())
    assert whole.height == N_HEADS * N_LAYERS * (N_LAYERS - 1) // 2
    for layer_from, layer_to, head, mean in whole.rows():
        assert mean == pytest.approx(sums[layer_from, layer_to, head] / len(ends), rel=1e-3, abs=1e-3)


def choose(loaded: object) -> object:
    from tracelake.collect.decoding.reading.reading import Reading

    return Reading()


def test_what_broke_off_goes_on_and_gives_the_same(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_SEQUENCES", 2)
    lake = collected(tmp_path / "broken", model_folder("llama"))
    calls: list[int] = []
    original = Scorer.scores

    def stopping(self: Scorer, frozen: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, frozen)

    monkeypatch.setattr(Scorer, "scores", stopping)
    with pytest.raises(KeyboardInterrupt):
        scored(lake, SecondOrderOptions())
    assert lake.scan("second_order_scores").select("sequence_id").unique().collect().height == 2
    assert lake.scan("analyses").collect().height == 0
    result = scored(lake, SecondOrderOptions())
    assert result.computed and lake.scan("analyses").collect()["n_sequences"].to_list() == [5]
    whole = collected(tmp_path / "whole", model_folder("llama"))
    ours, theirs = vectors(lake, result.analysis_id), vectors(whole, scored(whole, SecondOrderOptions()).analysis_id)
    assert ours.keys() == theirs.keys()
    for key, vector in theirs.items():
        np.testing.assert_array_equal(ours[key], vector)
    again = second_order(
        lake, "made", checked_direction("drawn", VECTOR), SecondOrderOptions(), lambda: pytest.fail("a look-up")
    )  # fmt: skip
    assert not again.computed and lake.verify("deep").ok


def test_ranks_equal_the_activations_by_hand(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    for architecture in ("gpt2", "llama"):
        lake = collected(tmp_path / architecture, model_folder(architecture), keep=("tokens", "activations:mlp_post"))
        result = rank_neurons(lake, "made", lambda lake=lake: load_run_model(lake, lake.resolve_run("made")))
        assert any("stored activations of mlp_post" in notice for notice in result.notices)
        bare = collected(tmp_path / f"{architecture}-bare", model_folder(architecture))
        read = rank_neurons(bare, "made", lambda lake=bare: load_run_model(lake, lake.resolve_run("made")))
        assert not read.notices and read.n_prompts == result.n_prompts
        ours, theirs = (one.scan("neuron_ranks").sort("layer", "neuron").collect() for one in (lake, bare))
        for name in ("mean_abs", "variance", "score"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3)
        model = random_model(architecture)
        for layer in range(N_LAYERS):
            rows = lake.sql(
                f"select vector from activations join sequences using (run_id, sequence_id) where site = 'mlp_post' "
                f"and layer = {layer} and position = n_prompt_tokens - 1"
            )
            p = np.array(rows["vector"].to_list(), np.float64)
            weight = (
                model.transformer.h[layer].mlp.c_proj.weight
                if architecture == "gpt2"
                else model.model.layers[layer].mlp.down_proj.weight.T
            )
            length = weight.detach().double().norm(dim=1).numpy()
            assert len(p) == len(PROMPTS) == result.n_prompts
            mean_abs, variance = np.abs(p).mean(0), p.var(0, ddof=1)
            ranks = lake.scan("neuron_ranks", "made").filter(layer=layer).sort("neuron").collect()
            np.testing.assert_allclose(ranks["mean_abs"], mean_abs, rtol=1e-4)
            np.testing.assert_allclose(ranks["variance"], variance, rtol=1e-3)
            np.testing.assert_allclose(ranks["direct_effect"], mean_abs * length, rtol=1e-4)
            parts = (mean_abs, variance, mean_abs * length)
            score = sum(part / part.max() for part in parts)
            np.testing.assert_allclose(ranks["score"], score, rtol=1e-3)
            assert ranks.sort("rank")["neuron"].to_list() == np.argsort(-score, kind="stable").tolist()


def test_samples_of_a_prompt_count_once_at_the_prompt(tmp_path: Path) -> None:
    lake = collected(tmp_path, "tinymath", prompt=("What is 2 + 3?",), samples=3)
    result = rank_neurons(lake, "made", lambda: load_run_model(lake, lake.resolve_run("made")))
    assert result.n_prompts == 1 and "3 sequences are samples of 1 prompts" in result.notices[0]
    rows = lake.scan("neuron_ranks").collect()
    assert rows["variance"].null_count() == rows.height and set(rows["reason"]) == {"only one prompt"}


def direction_file(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_directions_that_cannot_be_are_named(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    (tmp_path / "text.npy").write_text("no array")
    bad = {
        "wide": (np.ones((2, 3)), "float64 of shape"),
        "nan": (np.array([1.0, np.nan]), "NaN or infinity"),
        "zero": (np.zeros(4), "vector of zeros"),
        "words": (np.array(["a", "b"]), "one vector of numbers"),
    }
    for name, (array, words) in bad.items():
        with pytest.raises(ConfigError, match=words):
            read_direction(direction_file(tmp_path / f"{name}.npy", array))
    with pytest.raises(ConfigError, match="no .npy file"):
        read_direction(tmp_path / "text.npy")
    for given, error, words in (
        ("missing.npy", NotFoundError, "no file missing.npy"),
        ("", UsageError, "Name a direction"),
        ("mean-difference-9", NotFoundError, "no direction 'mean-difference-9'"),
    ):
        with pytest.raises(error, match=words):
            find_direction(lake, given)
    row = read_direction(direction_file(tmp_path / "row.npy", np.ones((1, 5), np.float16)))
    assert row.vector.shape == (5,) and row.vector.dtype == torch.float64


def test_stored_directions_are_found_by_their_id(tmp_path: Path) -> None:
    from tracelake.lake.analyses import commit_analysis
    from tracelake.lake.derived import Analysis, analysis_row

    lake = Lake.create(tmp_path)
    with lake.start_run("made", {}) as run:
        run.finish()
    analysis = Analysis("made", "directions", {}, "0" * 16)
    vectors = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    columns = {"direction_id": ["lda-final_norm-2-aa", "lda-resid_post-1-bb"], "site": ["final_norm", "resid_post"],
               "analysis_id": analysis.analysis_id, "method": "lda", "label": "correct"}  # fmt: skip
    call = {"table": "directions", "columns": columns, "vectors": vectors, "dtype": "float32"}
    commit_analysis(lake, analysis, {"analyses": analysis_row(analysis, 2, [], None)}, [call])
    assert find_direction(lake, "lda-final_norm-2-aa").vector.tolist() == [1.0, 2.0]
    with pytest.raises(ConfigError, match="lies in states of resid_post.*Possible: lda-final_norm-2-aa"):
        find_direction(lake, "lda-resid_post-1-bb")
    with pytest.raises(NotFoundError, match="Did you mean 'lda-final_norm-2-aa'"):
        find_direction(lake, "lda-final_norm-2-ab")


def refusal(lake: Lake, options: SecondOrderOptions | None = None, direction: Direction | None = None) -> LakeError:
    with pytest.raises(LakeError) as caught:
        scored(lake, options or SecondOrderOptions(), direction)
    assert lake.scan("second_order_scores").select(pl.len()).collect().item() == 0
    assert lake.scan("analyses").collect().height == 0
    return caught.value


def test_what_has_no_paths_is_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path / "gpt2", model_folder("gpt2"), max_new_tokens=0)
    narrow = refusal(lake, direction=checked_direction("narrow", np.ones(7)))
    assert "has 7 elements, the final states of run" in str(narrow) and narrow.exit_code == 4
    assert "--at prompt" in str(refusal(lake, SecondOrderOptions(at="answer")))
    for options in (
        SecondOrderOptions(at="end"),
        SecondOrderOptions(scaling="huge"),
        SecondOrderOptions(top=0),
        SecondOrderOptions(scaling="clip", by_head=True),
    ):
        assert refusal(lake, options).exit_code == 2
    rms = refusal(collected(tmp_path / "llama", model_folder("llama")), SecondOrderOptions(scaling="clip"))
    assert "RMSNorms" in str(rms) and rms.exit_code == 4
    encoder = refusal(collected(tmp_path / "t5", model_folder("t5")))
    assert "decoder-only" in str(encoder) and encoder.exit_code == 4


def test_post_norm_blocks_are_refused(tmp_path: Path) -> None:
    from random_models import byte_tokenizer, save
    from transformers import OPTConfig, OPTForCausalLM

    config = OPTConfig(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, word_embed_proj_dim=D_MODEL, ffn_dim=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=96, do_layer_norm_before=False,
    )  # fmt: skip
    lake = collected(tmp_path / "lake", save(OPTForCausalLM(config).eval(), tmp_path / "model", byte_tokenizer()))
    refused = refusal(lake)
    assert "post-norm" in str(refused) and refused.exit_code == 4


def test_a_direction_of_another_model_is_refused(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Of equal width, but fitted on states of other weights; those that exist for this model are named."""
    lake = collected(tmp_path / "lake", model_folder("gpt2"))
    tracelake.collect(lake.path, model=str(model_folder("llama")), prompt=PROMPTS, max_new_tokens=1, tag="other")
    stored = Direction("lda-final_norm-2-aa", torch.from_numpy(VECTOR), lake.resolve_run("other"))
    refused = refusal(lake, direction=stored)
    assert "other weights" in str(refused) and "There is none of this model" in str(refused) and refused.exit_code == 4
    own = Direction("lda-final_norm-2-aa", torch.from_numpy(VECTOR), lake.resolve_run("made"))
    assert scored(lake, SecondOrderOptions(), own).computed


def test_a_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    from random_models import byte_tokenizer, save
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=D_VOCAB, hidden_size=D_MODEL, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2, max_position_embeddings=96,
    )  # fmt: skip
    folder = save(MixtralForCausalLM(config).eval(), tmp_path / "model", byte_tokenizer())
    assert "mixture of experts" in str(refusal(collected(tmp_path / "lake", folder)))


def test_half_precision_is_computed_in_float32_and_said(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, model_folder("llama"), dtype="bfloat16")
    result = scored(lake, SecondOrderOptions())
    assert any("computed in float32" in notice for notice in result.notices)
    assert result.closing_error is not None and result.closing_error < 1e-3


def test_nan_states_are_refused(tmp_path: Path) -> None:
    from random_models import save

    model = random_model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[3] = float("nan")
    lake = collected(tmp_path / "lake", save(model, tmp_path / "model"))
    with pytest.raises(LakeError, match="NaN|cannot"):
        scored(lake, SecondOrderOptions())
    with pytest.raises(ConfigError, match="neurons of layer 1 are NaN or infinite.*nan_report"):
        rank_neurons(lake, "made", lambda: load_run_model(lake, lake.resolve_run("made")))
    for table in ("second_order_scores", "neuron_ranks", "analyses"):
        assert lake.scan(table).select(pl.len()).collect().item() == 0


def test_the_commands_print_what_they_wrote(tmp_path: Path) -> None:
    lake = collected(tmp_path / "lake", "tinymath", prompt=("What is 2 + 3?", "What is 40 + 7?"))
    path = direction_file(tmp_path / "d.npy", np.random.default_rng(0).normal(size=128))
    where = ["made", "--lake", str(tmp_path / "lake"), "--json"]
    ran = CliRunner().invoke(app, ["experiment", "second-order", *where, "--direction", str(path)])
    assert ran.exit_code == 0, ran.output
    facts = json.loads(ran.stdout.splitlines()[-1])
    effects = lake.scan("neuron_effects").filter(analysis_id=facts["effects_id"]).collect()
    assert effects.height == 6 * 512 and set(effects["reason"]) == {"no labels"}
    ranked = CliRunner().invoke(app, ["experiment", "neurons", *where])
    assert ranked.exit_code == 0 and json.loads(ranked.stdout.splitlines()[-1])["n_prompts"] == 2
    wrong = CliRunner().invoke(app, ["experiment", "second-order", *where, "--direction", str(path), "--by", "layer"])
    assert wrong.exit_code == 1 and "--by is head or token" in str(wrong.exception)
