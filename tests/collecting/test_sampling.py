"""Which token comes next, and when a sequence ends: draws, filters, greedy decoding, limits, broken models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from plain_forward import entropy_of, sampled_from
from random_models import (
    ARCHITECTURES,
    CONTEXT,
    D_MODEL,
    D_VOCAB,
    N_HEADS,
    N_LAYERS,
    PROMPTS,
    byte_tokenizer,
    random_model,
    save,
)
from scipy import stats
from tiny_architectures import tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.sampling.choice import Sampling, choose, uniform_draws
from tracelake.collect.models.unembedding import Unembedding
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError

END = 1


# -- draws -------------------------------------------------------------------------------------------------------------


def test_a_draw_is_a_function_of_seed_item_sample_and_step() -> None:
    items, samples = np.arange(40) // 4, np.arange(40) % 4
    whole = uniform_draws(3, items, samples, 7)
    order = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(uniform_draws(3, items[order], samples[order], 7), whole[order])
    alone = [uniform_draws(3, items[[i]], samples[[i]], 7)[0] for i in range(40)]
    np.testing.assert_array_equal(alone, whole)


def test_draws_differ_wherever_an_argument_differs() -> None:
    items, samples = (grid.ravel() for grid in np.meshgrid(np.arange(20), np.arange(20)))
    draws = [uniform_draws(seed, items, samples, step) for seed in (0, 1, 2, 2**63) for step in range(20)]
    assert len(np.unique(draws)) == 4 * 20 * 400


@pytest.mark.parametrize("varied", ["seed", "item", "sample", "step"])
def test_draws_are_uniform_and_independent_along_every_argument(varied: str) -> None:
    n = 100_000 if varied in ("item", "sample") else 10_000
    zero, ramp = np.zeros(n, dtype=np.int64), np.arange(n)
    if varied == "item":
        draws = uniform_draws(0, ramp, zero, 0)
    elif varied == "sample":
        draws = uniform_draws(0, zero, ramp, 0)
    elif varied == "step":
        draws = np.array([uniform_draws(0, zero[:1], zero[:1], step)[0] for step in range(n)])
    else:
        draws = np.array([uniform_draws(seed, zero[:1], zero[:1], 0)[0] for seed in range(n)])
    assert draws.min() >= 0 and draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount((draws * 64).astype(int), minlength=64)).pvalue > 1e-3
    assert stats.chisquare(np.bincount((draws * 2**20 % 16).astype(int), minlength=16)).pvalue > 1e-3  # low digits too
    pairs = (draws[:-1] * 8).astype(int) * 8 + (draws[1:] * 8).astype(int)
    assert stats.chisquare(np.bincount(pairs, minlength=64)).pvalue > 1e-3


# -- choice ------------------------------------------------------------------------------------------------------------

FILTERS = [
    {},
    {"temperature": 0.7},
    {"temperature": 2.0},
    {"top_k": 5},
    {"top_p": 0.8},
    {"temperature": 1.5, "top_k": 12, "top_p": 0.9},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_tokens_are_drawn_from_the_processed_distribution(filters: dict) -> None:
    n = 40_000
    logits = torch.randn(1, 30, generator=torch.Generator().manual_seed(0)) * 2
    sampling = Sampling(**{"temperature": 1.0, **filters})
    draws = uniform_draws(0, np.arange(n), np.zeros(n, dtype=np.int64), 0)
    choice = choose(logits.expand(n, -1), torch.zeros(n, 1, dtype=torch.long), sampling.processors(), draws)
    assert choice.logprob is not None and choice.entropy_bits is not None
    p = sampled_from(logits.numpy(), **filters)[0]
    counts = np.bincount(choice.token_ids.numpy(), minlength=30)
    assert (counts[p == 0] == 0).all()
    kept = p * n > 5
    rest = n - counts[kept].sum(), n * p[~kept].sum()
    observed, expected = np.append(counts[kept], rest[0]), np.append(n * p[kept], rest[1])
    use = expected > 0
    assert stats.chisquare(observed[use], expected[use] * observed[use].sum() / expected[use].sum()).pvalue > 1e-3
    np.testing.assert_allclose(choice.logprob, np.log(p[choice.token_ids]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(choice.entropy_bits, entropy_of(p), rtol=1e-4)


def test_a_draw_is_the_place_in_the_cumulative_distribution() -> None:
    p = torch.tensor([0.25, 0.0, 0.5, 0.25])
    draws = np.array([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 2.0**-53])
    choice = choose(p.log().expand(6, -1), torch.zeros(6, 1, dtype=torch.long), Sampling(1.0).processors(), draws)
    assert choice.token_ids.tolist() == [0, 0, 2, 2, 3, 3]


def test_the_largest_draw_never_falls_on_a_token_without_probability() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf]])
    top = np.array([1 - 2.0**-53])
    assert choose(logits, torch.zeros(1, 1, dtype=torch.long), Sampling(1.0).processors(), top).token_ids.item() == 1
    zero = choose(logits.flip(-1), torch.zeros(1, 1, dtype=torch.long), Sampling(1.0).processors(), np.zeros(1))
    assert zero.token_ids.item() == 2


def test_greedy_takes_the_lowest_id_of_equals_and_says_nothing_of_sampling() -> None:
    logits = torch.tensor([[0.0, 4.0, 4.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    choice = choose(logits, torch.zeros(2, 1, dtype=torch.long), Sampling().processors(), None)
    assert choice.token_ids.tolist() == [1, 0]
    assert choice.logprob is None and choice.entropy_bits is None


# -- whole runs --------------------------------------------------------------------------------------------------------


def collection(folder: Path, **settings: object) -> Collection:
    defaults = {"model": str(folder), "prompt": PROMPTS, "device": "cpu", "keep": ("tokens",)}
    return Collection(CollectConfig(**{**defaults, **settings}))


def collected(path: Path, folder: Path, **settings: object) -> Lake:
    """A lake with one run."""
    lake = Lake.create(path)
    collection(folder, **settings).start(lake, assume_yes=True)
    return lake


def completions(lake: Lake) -> list[list[int]]:
    """Generated ids of every sequence, in order."""
    tokens = lake.scan("token_steps").filter(~pl.col("is_prompt")).sort("sequence_id", "position").collect()
    n = lake.scan("sequences").select("sequence_id").collect().height
    return [tokens.filter(pl.col("sequence_id") == i)["token_id"].to_list() for i in range(n)]


def generated(model: PreTrainedModel, text: str, n: int, folder: Path | None = None, **options: object) -> list[int]:
    """What the library's own greedy `generate` writes after one prompt, unbatched; `folder` may hold the tokenizer."""
    # Some architectures have a tokenizer of their own, which cuts words in other places.
    tokenizer = byte_tokenizer() if folder is None else AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt")
    found = model.generate(**{k: ids[k] for k in ("input_ids", "attention_mask")}, do_sample=False, max_new_tokens=n,
                           pad_token_id=2, **options)  # type: ignore[operator]  # fmt: skip
    return found[0, ids["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_equal_generate(architecture: str, model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = model_folder(architecture)
    lake = collected(tmp_path, folder, max_new_tokens=15, batch_size=3)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert completions(lake) == [generated(model, text, 15, folder) for text in PROMPTS]
    frame = lake.scan("sequences").sort("sequence_id").collect()
    assert set(frame["origin"]) == {"greedy"} and set(frame["temperature"]) == {0.0}


def test_repetition_penalty_is_that_of_generate_and_blind_to_padding(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    lake = collected(tmp_path, model_folder("llama"), max_new_tokens=15, batch_size=5, repetition_penalty=1.7)
    model = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    wanted = [generated(model, text, 15, repetition_penalty=1.7) for text in PROMPTS]
    assert completions(lake) == wanted
    assert wanted != [generated(model, text, 15) for text in PROMPTS]


def test_samples_do_not_depend_on_the_batch(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    options = {"max_new_tokens": 10, "samples": 3, "seed": 5}
    together = collected(tmp_path / "a", model_folder("llama"), batch_size=15, **options)
    apart = collected(tmp_path / "b", model_folder("llama"), batch_size=2, segment_items=1, **options)
    other = collected(tmp_path / "c", model_folder("llama"), batch_size=15, **options | {"seed": 6})
    assert completions(together) == completions(apart) != completions(other)
    frame = together.scan("sequences").sort("sequence_id").collect()
    assert frame["sequence_id"].to_list() == list(range(15)) and frame["sample"].to_list() == [0, 1, 2] * 5
    assert set(frame["origin"]) == {"sampled"} and set(frame["temperature"]) == {1.0}
    assert len({tuple(ids) for ids in completions(together)}) == 15


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    """A Llama that no token ends but the tokenizer's own end token, which it never writes by itself."""
    model = random_model("llama")
    model.generation_config.eos_token_id = END
    return model, save(model, tmp_path_factory.mktemp("endless"))


def first_new(ids: list[int], start: int) -> int:
    """The first step from `start` on whose token was not written before."""
    return next(step for step in range(start, len(ids)) if ids[step] not in ids[:step])


def test_the_end_token_is_a_row_and_is_read(endless: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    writes = generated(endless[0], PROMPTS[0], 12)
    step = first_new(writes, 4)
    model = random_model("llama")
    model.generation_config.eos_token_id = END
    with torch.no_grad():  # the end token takes the place of the token that the model would write at that step
        model.lm_head.weight[[END, writes[step]]] = model.lm_head.weight[[writes[step], END]]
    keep = ("tokens", "layers", "heads", "activations:resid_post")
    lake = collected(tmp_path, save(model, tmp_path / "model"), max_new_tokens=12, keep=keep)
    row = lake.scan("sequences").sort("sequence_id").collect().row(0, named=True)
    assert completions(lake)[0] == [*writes[:step], END]
    assert row["n_generated_tokens"] == step + 1 and row["finish_reason"] == "eos"
    assert row["completion"] == byte_tokenizer().decode(writes[:step])
    assert row["next_entropy_bits"] is not None
    last = row["n_prompt_tokens"] + step
    for table, rows in (("layer_summaries", N_LAYERS + 2), ("head_summaries", N_LAYERS * N_HEADS), ("activations", 3)):
        frame = lake.scan(table).filter(pl.col("sequence_id") == 0).collect()
        assert frame["position"].max() == last
        assert frame.filter(pl.col("position") == last).height == rows
    ends = lake.scan("token_steps").filter(pl.col("sequence_id") == 0, pl.col("step") >= 0).sort("step").collect()
    assert ends["char_end"].to_list()[-1] == ends["char_end"].to_list()[-2]


def test_length_and_context_end_a_sequence(endless: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    prompts = ("Mia", "#" * (CONTEXT - 4), "#" * (CONTEXT - 1))
    lake = collected(tmp_path, endless[1], prompt=prompts, max_new_tokens=8)
    frame = lake.scan("sequences").sort("sequence_id").collect()
    assert frame["n_prompt_tokens"].to_list()[1:] == [CONTEXT - 4, CONTEXT - 1]
    assert frame["finish_reason"].to_list() == ["length", "context", "context"]
    assert frame["n_generated_tokens"].to_list() == [8, 4, 1]
    with pytest.raises(ConfigError, match="--on-long"):
        collected(tmp_path / "b", endless[1], prompt=("#" * CONTEXT,), max_new_tokens=8)


def test_the_positions_of_a_decoder_end_a_sequence_whatever_they_are_called(tmp_path: Path) -> None:
    """Whisper's; behind the last one torch would raise in the middle of a run."""
    config = tiny_config("whisper")
    config.is_encoder_decoder, config.max_target_positions, config.eos_token_id = False, 16, None
    folder = save(AutoModelForCausalLM.from_config(config), tmp_path / "model")
    lake = collected(tmp_path, folder, prompt=("#" * 10, "#" * 13), max_new_tokens=8)
    frame = lake.scan("sequences").sort("sequence_id").collect()
    assert frame["finish_reason"].to_list() == ["context", "context"]
    assert frame["n_generated_tokens"].to_list() == [6, 3]


def test_a_stop_text_over_two_tokens_ends_a_sequence(endless: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    tokenizer, prompts = byte_tokenizer(), [f"{a}{b}" for a in "abcdef" for b in "uvwxyz"]
    for prompt in prompts:
        writes = generated(endless[0], prompt, 16)
        pieces = [tokenizer.decode([i]) for i in writes]
        for i in range(1, len(writes) - 2):
            stop = pieces[i][-1:] + pieces[i + 1][:1]
            if stop.isascii() and len(stop) == 2 and tokenizer.decode(writes).find(stop) == len(
                tokenizer.decode(writes[: i + 1])
            ) - 1:  # fmt: skip
                lake = collected(tmp_path, endless[1], prompt=(prompt,), max_new_tokens=16, stop=("never so", stop))
                row = lake.scan("sequences").collect().row(0, named=True)
                assert row["finish_reason"] == "stop_string"
                assert completions(lake) == [writes[: i + 2]]
                assert row["n_generated_tokens"] == i + 2 and stop in row["completion"]
                return
    pytest.fail("no completion has two neighbouring tokens of plain characters")


def test_reading_only(endless: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, endless[1], max_new_tokens=0)
    frame = lake.scan("sequences").sort("sequence_id").collect()
    assert set(frame["origin"]) == {"read"} and set(frame["finish_reason"]) == {"none"}
    assert set(frame["n_generated_tokens"]) == {0}
    assert frame["next_entropy_bits"].is_not_null().all() and frame["next_topk_ids"].list.len().to_list() == [10] * 5
    best = [generated(endless[0], text, 1)[0] for text in PROMPTS]
    assert frame["next_topk_ids"].list.first().to_list() == best
    assert frame["temperature"].is_null().all()
    tokens = lake.scan("token_steps").collect()
    assert tokens["is_prompt"].all() and tokens["step"].is_null().all() and tokens["latency_ms"].is_null().all()
    assert tokens.filter(pl.col("position") > 0)["logprob"].is_not_null().all()


def test_reading_a_single_token(endless: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    keep = ("tokens", "layers", "heads")
    lake = collected(tmp_path, endless[1], prompt=("a",), max_new_tokens=0, keep=keep)
    tokens = lake.scan("token_steps").collect()
    assert tokens.height == 1 and tokens["logprob"].is_null().all() and tokens["topk_ids"].is_null().all()
    assert lake.scan("sequences").collect()["next_entropy_bits"].is_not_null().all()
    assert lake.scan("head_summaries").collect()["basin_ratio"].to_list() == [1.0] * N_LAYERS * N_HEADS


NULL_WITHOUT_TOKENS = (
    "logprob", "surprisal_bits", "entropy_bits", "rank", "top1_prob", "margin", "top10_mass", "topk_ids",
    "topk_logprobs",
)  # fmt: skip


def test_without_tokens_the_distribution_is_null(endless: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    lake = collected(tmp_path, endless[1], max_new_tokens=6, keep=("layers",))
    tokens = lake.scan("token_steps").collect()
    assert all(tokens[name].is_null().all() for name in NULL_WITHOUT_TOKENS)
    assert all(tokens[name].is_not_null().all() for name in ("token_id", "token", "char_end"))
    assert lake.scan("sequences").collect()["next_entropy_bits"].is_null().all()
    assert completions(lake) == [generated(endless[0], text, 6) for text in PROMPTS]


def test_reading_without_tokens_computes_no_logits(
    endless: tuple[PreTrainedModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Unembedding, states: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the unembedding was computed")

    checked = collection(endless[1], max_new_tokens=0, keep=("layers",))
    monkeypatch.setattr(Unembedding, "__call__", refuse)
    lake = Lake.create(tmp_path)
    checked.start(lake)
    assert lake.scan("layer_summaries").collect().height > 0


# -- broken models -----------------------------------------------------------------------------------------------------

KEEP_ALL = ("tokens", "layers", "heads", "activations:resid_post")


def no_nan(lake: Lake) -> None:
    """Missing numbers are null in every table."""
    for table in ("sequences", "token_steps", "layer_summaries", "head_summaries"):
        frame = lake.scan(table).collect()
        for name, kind in frame.schema.items():
            values = frame[name].explode().drop_nulls() if kind == pl.List(pl.Float32) else frame[name]
            if values.dtype.is_float():
                assert not values.is_nan().any(), f"{table}.{name}"


def test_a_model_whose_logits_are_nan(tmp_path: Path) -> None:
    model = random_model("llama")
    with torch.no_grad():
        model.lm_head.weight[17] = torch.nan
    lake = collected(tmp_path, save(model, tmp_path / "model"), max_new_tokens=6, keep=KEEP_ALL)
    frame = lake.scan("sequences").collect()
    assert set(frame["finish_reason"]) == {"broken"} and set(frame["n_generated_tokens"]) == {0}
    assert frame["next_entropy_bits"].is_null().all() and frame["next_topk_logprobs"].is_null().all()
    tokens = lake.scan("token_steps").collect()
    assert tokens.height == frame["n_prompt_tokens"].sum()
    assert all(tokens[name].is_null().all() for name in NULL_WITHOUT_TOKENS)
    layers = lake.scan("layer_summaries").collect()
    assert layers.height == tokens.height * (N_LAYERS + 2)
    assert layers["n_nan"].sum() == 0 and layers["l2_norm"].is_not_null().all()
    no_nan(lake)


def test_a_model_whose_last_layer_is_nan(tmp_path: Path) -> None:
    model = random_model("llama")
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight[3] = torch.nan
    lake = collected(tmp_path, save(model, tmp_path / "model"), max_new_tokens=6, keep=KEEP_ALL)
    assert set(lake.scan("sequences").collect()["finish_reason"]) == {"broken"}
    layers = lake.scan("layer_summaries").collect()
    counts = {key: set(part["n_nan"]) for key, part in layers.group_by("layer", "site")}
    # The final norm spreads one bad element over the whole state.
    assert counts == {
        (0, "resid_pre"): {0}, (0, "resid_post"): {0}, (1, "resid_post"): {0}, (2, "resid_post"): {1},
        (2, "final_norm"): {D_MODEL},
    }  # fmt: skip
    bad = layers.filter(pl.col("n_nan") > 0)
    assert bad["l2_norm"].is_null().all() and bad["max_abs"].is_null().all()
    no_nan(lake)


def test_a_sequence_that_breaks_midway_leaves_the_others_alone(
    endless: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    """A token whose embedding is NaN breaks the sequences that read it, and only from there on."""
    whole = [generated(endless[0], text, 10) for text in PROMPTS]
    step = first_new(whole[0], 3)
    poison = whole[0][step]
    model = random_model("llama")
    model.generation_config.eos_token_id = END
    with torch.no_grad():
        model.model.embed_tokens.weight[poison] = torch.nan
    lake = collected(tmp_path, save(model, tmp_path / "model"), max_new_tokens=10, batch_size=5, keep=KEEP_ALL)
    frame = lake.scan("sequences").sort("sequence_id").collect()
    prompts = [byte_tokenizer()(text)["input_ids"] for text in PROMPTS]
    assert not any(poison in ids for ids in prompts), "choose another step"
    wanted = [ids[: ids.index(poison) + 1] if poison in ids else ids for ids in whole]
    assert completions(lake) == wanted
    reasons = ["broken" if poison in ids else "eos" if ids[-1] == END else "length" for ids in wanted]
    assert frame["finish_reason"].to_list() == reasons and reasons[0] == "broken" and "length" in reasons
    assert (frame["next_entropy_bits"].is_null() == pl.Series(reasons).eq("broken")).all()
    layers = lake.scan("layer_summaries").collect()
    after = frame.select("sequence_id", last=pl.col("n_prompt_tokens") + pl.col("n_generated_tokens") - 1)
    layers = layers.join(after, on="sequence_id")
    broken = [i for i, reason in enumerate(reasons) if reason == "broken"]
    is_bad = pl.col("sequence_id").is_in(broken) & (pl.col("position") == pl.col("last"))
    assert set(layers.filter(is_bad)["n_nan"]) == {D_MODEL}
    assert layers.filter(is_bad).height == len(broken) * (N_LAYERS + 2)
    assert layers.filter(~is_bad)["n_nan"].sum() == 0
    heads = lake.scan("head_summaries").collect().join(after, on="sequence_id")
    for name in ("entropy_bits", "max_weight", "max_key"):
        assert heads.filter(is_bad)[name].is_null().all() and heads.filter(~is_bad)[name].is_not_null().all(), name
    tokens = lake.scan("token_steps").collect()
    assert tokens.filter(pl.col("position") > 0)["logprob"].is_not_null().all()
    no_nan(lake)


def test_temperature_is_checked() -> None:
    for bad in (float("nan"), -1.0, float("inf")):
        with pytest.raises(ValueError, match="temperature"):
            CollectConfig(temperature=bad)
    with pytest.raises(ValueError, match="samples"):
        CollectConfig(temperature=0, samples=2)
    assert CollectConfig().sampling.greedy and not CollectConfig(samples=2).sampling.greedy
    assert CollectConfig(samples=2).sampling.temperature == 1.0
    assert D_VOCAB > max(byte_tokenizer()(PROMPTS[0])["input_ids"])
