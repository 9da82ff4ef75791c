"""What a site is: identities, named errors, scopes, number formats; the hooks leave nothing behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from plain_forward import PlainModel, entropy_of, log_probabilities
from random_models import (
    D_MODEL,
    D_VOCAB,
    N_HEADS,
    N_LAYERS,
    PROMPTS,
    random_model,
    save,
)
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, FailedError, LakeError

SHAPE = {
    "vocab_size": D_VOCAB,
    "hidden_size": D_MODEL,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def collection(folder: Path, *keep: str, **settings: object) -> Collection:
    defaults = {"model": str(folder), "prompt": PROMPTS, "device": "cpu", "keep": keep, "max_new_tokens": 4}
    return Collection(CollectConfig(**{**defaults, **settings}))


def collected(path: Path, folder: Path, *keep: str, **settings: object) -> Lake:
    """A lake with one run."""
    lake = Lake.create(path)
    collection(folder, *keep, **settings).start(lake, assume_yes=True)
    return lake


def vectors(lake: Lake, site: str, layer: int, *, raw: bool = False) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Keys (sequence, position) and vectors of one site, sorted."""
    keys, parts = [], []
    for key, matrix in lake.vectors(layer, site, raw=raw):
        keys += zip(key["sequence_id"].to_pylist(), key["position"].to_pylist(), strict=True)
        parts.append(matrix)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    return [keys[i] for i in order], np.concatenate(parts)[order]


# -- sites that do not exist -------------------------------------------------------------------------------------------


def test_parallel_blocks_have_no_resid_mid(model_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="resid_mid.*parallel"):
        collection(model_folder("neox"), "activations:resid_mid")


def test_sequential_gpt_neox_has_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE, use_parallel_residual=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(12.0 if parameter.ndim > 1 else 1.0)
    lake = collected(tmp_path / "lake", save(model, tmp_path / "model"), *(f"activations:{s}" for s in
                     ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")))  # fmt: skip
    for layer in range(2):
        pre, mid, post, attention, mlp = (
            vectors(lake, site, layer)[1] for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
        )
        np.testing.assert_allclose(pre + attention, mid, atol=1e-5)
        np.testing.assert_allclose(mid + mlp, post, atol=1e-5)


def test_a_mixture_of_experts_has_no_mlp_post(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=4, pad_token_id=2)
    folder = save(MixtralForCausalLM(config), tmp_path / "model")
    with pytest.raises(ConfigError, match="mlp_post.*mixture"):
        collection(folder, "activations:mlp_post")
    lake = collected(tmp_path / "lake", folder, *(f"activations:{s}" for s in
                     ("resid_pre", "resid_post", "attn_out", "mlp_out")))  # fmt: skip
    pre, post, attention, mlp = (
        vectors(lake, site, 1)[1] for site in ("resid_pre", "resid_post", "attn_out", "mlp_out")
    )
    np.testing.assert_allclose(pre + attention + mlp, post, atol=1e-5)


@pytest.mark.parametrize("keep", ["activations:residpost", "activations:resid_post@3", "activations:z:middle"])
def test_what_cannot_be_kept_is_named(model_folder: Callable[[str], Path], keep: str) -> None:
    with pytest.raises((LakeError, ValueError)):
        collection(model_folder("llama"), keep)


# -- scopes ------------------------------------------------------------------------------------------------------------


def test_scopes_and_layers_limit_what_is_stored(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    keep = ("activations:resid_pre@0:prompt", "activations:mlp_out@1:generated", "activations:resid_post@-1:last")
    lake = collected(tmp_path / "some", model_folder("llama"), *keep, max_new_tokens=8)
    whole = collected(tmp_path / "all", model_folder("llama"), "activations:resid_pre", "activations:mlp_out",
                      "activations:resid_post", max_new_tokens=8)  # fmt: skip
    places = {row[:2] for row in lake.scan("activations").select("site", "layer").collect().iter_rows()}
    assert places == {("resid_pre", 0), ("mlp_out", 1), ("resid_post", N_LAYERS - 1)}
    lengths = (
        lake.scan("sequences").sort("sequence_id").select("n_prompt_tokens", "n_generated_tokens").collect().rows()
    )
    assert len({n for _, n in lengths}) > 1, "all ended together"
    wanted = {
        ("resid_pre", 0): [(i, p) for i, (n, _) in enumerate(lengths) for p in range(n)],
        ("mlp_out", 1): [(i, p) for i, (n, m) in enumerate(lengths) for p in range(n, n + m)],
        ("resid_post", N_LAYERS - 1): [(i, n + m - 1) for i, (n, m) in enumerate(lengths)],
    }
    for (site, layer), keys in wanted.items():
        found, values = vectors(lake, site, layer)
        assert found == keys, site
        everything = dict(zip(*vectors(whole, site, layer), strict=True))
        np.testing.assert_array_equal(values, np.stack([everything[key] for key in keys]))


def test_the_last_token_when_only_reading(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, model_folder("llama"), "activations:resid_post@1:last", max_new_tokens=0)
    lengths = lake.scan("sequences").sort("sequence_id").collect()["n_prompt_tokens"].to_list()
    assert vectors(lake, "resid_post", 1)[0] == [(i, n - 1) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("max_new_tokens", [0, 3])
def test_overlapping_scopes_store_a_vector_once(
    model_folder: Callable[[str], Path], tmp_path: Path, max_new_tokens: int
) -> None:
    keep = ("activations:resid_post", "activations:resid_post@1:last", "activations:z:generated", "activations:z:last",
            "activations:v:prompt", "activations:v:last")  # fmt: skip
    lake = collected(tmp_path, model_folder("llama"), *keep, max_new_tokens=max_new_tokens)
    tokens = lake.scan("token_steps").sort("sequence_id", "position").collect()
    every = tokens.select("sequence_id", "position").rows()
    last = set(tokens.group_by("sequence_id").agg(pl.col("position").max()).rows())
    written = set(tokens.filter(~pl.col("is_prompt")).select("sequence_id", "position").rows())
    assert vectors(lake, "resid_post", 1)[0] == every
    assert vectors(lake, "z", 1)[0] == [key for key in every if key in written | last]
    assert vectors(lake, "v", 1)[0] == [key for key in every if key not in written or key in last]


# -- number formats ----------------------------------------------------------------------------------------------------


def floats(bits: np.ndarray) -> np.ndarray:
    """Values of stored elements: bfloat16 comes as bit patterns."""
    if bits.dtype == np.uint16:
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return bits.astype(np.float64)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(model_folder: Callable[[str], Path], tmp_path: Path, dtype: str) -> None:
    """Vectors are the model's own bits; statistics are computed from them in float32, not in half precision."""
    folder, kind = model_folder("llama"), getattr(torch, dtype)
    sites = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z", "v", "final_norm")
    lake = collected(tmp_path, folder, "tokens", "layers", "heads", *(f"activations:{s}" for s in sites), dtype=dtype,
                     prompt=PROMPTS[:1], max_new_tokens=0, attn_implementation="eager")  # fmt: skip
    assert set(lake.scan("activations").select("dtype").collect()["dtype"]) == {dtype}
    plain = PlainModel(AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval(), "llama")
    tokens = lake.scan("token_steps").sort("position").collect()
    reading = plain.read(tokens["token_id"].to_numpy().astype(np.int64), tokens.height)
    stored = {}
    for site in sites:
        for layer in [N_LAYERS - 1] if site == "final_norm" else range(N_LAYERS):
            _, stored[site, layer] = vectors(lake, site, layer, raw=True)
            assert stored[site, layer].dtype == reading.states[site, layer].dtype
            np.testing.assert_array_equal(stored[site, layer], reading.states[site, layer], err_msg=f"{site} {layer}")
    check_statistics(lake, {site: floats(values) for site, values in stored.items()})
    logprobs = log_probabilities(reading.logits)[:-1]
    own = np.take_along_axis(logprobs, reading.ids[1:, None], -1)[:, 0]
    np.testing.assert_allclose(tokens["logprob"].to_numpy()[1:], own, rtol=1e-4, atol=1e-5)
    entropy = entropy_of(np.exp(logprobs))
    np.testing.assert_allclose(tokens["entropy_bits"].to_numpy()[1:], entropy, rtol=1e-4, atol=1e-5)


def check_statistics(lake: Lake, states: dict[tuple[str, int], np.ndarray]) -> None:
    """layer_summaries against float64 statistics of the stored vectors."""
    frame = lake.scan("layer_summaries").sort("sequence_id", "position").collect()
    below = {("resid_post", 0): ("resid_pre", 0), ("final_norm", N_LAYERS - 1): ("resid_post", N_LAYERS - 1)}
    below |= {("resid_post", layer): ("resid_post", layer - 1) for layer in range(1, N_LAYERS)}
    for (site, layer), previous in below.items():
        x, y = states[site, layer], states[previous]
        norm = np.linalg.norm(x, axis=-1)
        wanted = {
            "l2_norm": norm,
            "mean": x.mean(-1),
            "std": x.std(-1, ddof=1),
            "max_abs": np.abs(x).max(-1),
            "delta_norm": np.linalg.norm(x - y, axis=-1),
        }
        rows = frame.filter(site=site, layer=layer)
        for name, values in wanted.items():
            np.testing.assert_allclose(rows[name].to_numpy(), values, rtol=1e-5, atol=1e-6, err_msg=f"{site} {name}")
        cosine = (x[1:] * x[:-1]).sum(-1) / (norm[1:] * norm[:-1])
        found = rows.filter(pl.col("position") > 0)
        with_predecessor = rows["position"].to_numpy()[1:] > 0
        found_cosine = found["cos_prev_position"].to_numpy()
        np.testing.assert_allclose(found_cosine, cosine[with_predecessor], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_while_generating(model_folder: Callable[[str], Path], tmp_path: Path, dtype: str) -> None:
    """Statistics of generated and padded rows are those of the vectors stored beside them."""
    lake = collected(tmp_path, model_folder("gpt2"), "layers", "activations:resid_post", "activations:resid_pre@0",
                     "activations:final_norm", dtype=dtype, max_new_tokens=6)  # fmt: skip
    places = [("resid_pre", 0), ("final_norm", N_LAYERS - 1), *(("resid_post", layer) for layer in range(N_LAYERS))]
    check_statistics(lake, {place: floats(vectors(lake, *place, raw=True)[1]) for place in places})


def test_another_stored_format(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    full = collected(tmp_path / "a", model_folder("llama"), "activations:resid_post@1")
    half = collected(tmp_path / "b", model_folder("llama"), "activations:resid_post@1", store_dtype="bfloat16")
    wanted = torch.from_numpy(vectors(full, "resid_post", 1)[1]).to(torch.bfloat16)
    found = vectors(half, "resid_post", 1, raw=True)[1]
    np.testing.assert_array_equal(found, wanted.view(torch.int16).numpy().view(np.uint16))


# -- nothing is left behind --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_and_attention_are_gone_afterwards(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    run = collection(model_folder("llama"), "tokens", "layers", "heads", "activations:z", "activations:resid_mid")
    model = run.loaded.model
    ids = torch.arange(9)[None] + 40
    before = model(ids).logits
    if fails:
        monkeypatch.setattr(run.loaded, "unembed", lambda states: 1 / 0)
        with pytest.raises(FailedError, match="ZeroDivisionError"):
            run.start(Lake.create(tmp_path), assume_yes=True)
    else:
        run.start(Lake.create(tmp_path), assume_yes=True)
    assert model.config._attn_implementation == "sdpa"
    assert AttentionInterface()["sdpa"] is sdpa_attention_forward
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and "forward" not in vars(module)
    torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)


def test_observing_does_not_change_what_is_computed(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    few = collected(tmp_path / "few", model_folder("llama"), "tokens")
    many = collected(tmp_path / "many", model_folder("llama"), "tokens", "layers", "heads", "activations:rot_q")
    frames = [lake.scan("token_steps").drop("run_id", "latency_ms").collect() for lake in (few, many)]
    assert frames[0].equals(frames[1])


def test_the_unembedding_is_the_model_s_own(model_folder: Callable[[str], Path]) -> None:
    loaded = load_model(str(model_folder("gemma2")), device="cpu")
    ids = torch.arange(12)[None] + 30
    with torch.no_grad():
        output = loaded.model(ids, output_hidden_states=True)
        found = loaded.unembed(output.hidden_states[-1][0])
    torch.testing.assert_close(found, output.logits[0])
    assert output.logits.abs().max() < 6.0, "the soft cap is part of it"
    assert random_model("gemma2").config.final_logit_softcapping == 6.0
