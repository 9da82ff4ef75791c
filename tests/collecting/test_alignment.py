"""Every stored number against one plain forward pass per sequence (`plain_forward`): the right token, layer and head.

Collection works with padded batches, chunks of the prompt, a cache and sequences that leave; the reference with none of
these. Tolerances are those of the glossary: 1e-5 + 1e-4 of the value for scalars, 1e-4 of the norm for vectors.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
import torch
from plain_forward import (
    VECTOR_SITES,
    PlainModel,
    Reading,
    basin,
    entropy_of,
    log_probabilities,
    sampled_from,
    uniform_basin,
)
from random_models import ARCHITECTURES, CONTEXT, N_HEADS, N_LAYERS, PROMPTS
from stored_values import assert_close, check_topk
from transformers import AutoModelForCausalLM, AutoTokenizer

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.collect.running.planning.plan import Plan
from tracelake.lake import Lake

SUMMARY_SITES = [("resid_pre", 0), *(("resid_post", layer) for layer in range(N_LAYERS)), ("final_norm", N_LAYERS - 1)]
SETTINGS = {
    "greedy": {"max_new_tokens": 12, "batch_size": 5},
    "sampled": {"max_new_tokens": 12, "batch_size": 6, "samples": 2, "temperature": 1.0, "top_p": 0.9, "top_k": 20},
    "eager": {"max_new_tokens": 12, "batch_size": 5, "attn_implementation": "eager"},
}
PLANS = {
    "greedy": {"segments": [[0, 5]], "chunk": 7, "logit_rows": 5, "block_bytes": 600},
    "sampled": {"segments": [[0, 3], [3, 5]], "chunk": 16, "logit_rows": 64, "block_bytes": 2**22},
    "eager": {"segments": [[0, 5]], "chunk": 64, "logit_rows": 64, "block_bytes": 2**22},
}
DISTRIBUTION = ["logprob", "surprisal_bits", "entropy_bits", "top1_prob", "margin", "top10_mass"]

Site = tuple[str, int]


@dataclass(frozen=True)
class Collected:
    """One run as the lake returns it, sorted by key, beside the plain readings of the same sequences."""

    sequences: pl.DataFrame
    tokens: pl.DataFrame
    layers: pl.DataFrame
    heads: pl.DataFrame
    vectors: dict[Site, np.ndarray]
    readings: list[Reading]
    settings: dict

    @property
    def generated(self) -> np.ndarray:
        """Which of all tokens were generated."""
        return np.concatenate([np.arange(len(r.ids)) >= r.n_prompt for r in self.readings])

    @property
    def positions(self) -> np.ndarray:
        return np.concatenate([np.arange(len(r.ids)) for r in self.readings])

    def states(self, site: Site) -> np.ndarray:
        """The plain states of all tokens at one site."""
        return np.concatenate([r.states[site] for r in self.readings])


def sites_of(architecture: str) -> list[str]:
    return [site for site in VECTOR_SITES if site != "resid_mid" or not ARCHITECTURES[architecture].parallel]


def keep_all(architecture: str) -> tuple[str, ...]:
    sites = ("final_norm", *sites_of(architecture))
    return ("tokens", "layers", "heads", *(f"activations:{site}" for site in sites))


def plain_model(folder: Path, architecture: str, dtype: torch.dtype = torch.float32) -> PlainModel:
    return PlainModel(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval(), architecture)


def read_lake(lake: Lake, run: str, plain: PlainModel, settings: dict, *, raw: bool = False) -> Collected:
    """Everything that `run` stored, and the plain reading of every sequence in it."""
    key = ["sequence_id", "position"]
    frames = {name: lake.scan(name, run=run).collect() for name in TABLES_READ}
    sequences = frames["sequences"].sort("sequence_id")
    tokens = frames["token_steps"].sort(key)
    ids = [part["token_id"].to_numpy().astype(np.int64) for part in tokens.partition_by("sequence_id")]
    sites = lake.scan("activations", run=run).select("site", "layer").unique().collect().rows()
    return Collected(
        sequences=sequences,
        tokens=tokens,
        layers=frames["layer_summaries"].sort(*key, "layer", "site"),
        heads=frames["head_summaries"].sort(*key, "layer", "head"),
        vectors={(site, layer): read_vectors(lake, run, site, layer, raw=raw) for site, layer in sites},
        readings=[plain.read(i, n) for i, n in zip(ids, sequences["n_prompt_tokens"], strict=True)],
        settings=settings,
    )


TABLES_READ = ("sequences", "token_steps", "layer_summaries", "head_summaries")


def read_vectors(lake: Lake, run: str, site: str, layer: int, *, raw: bool = False) -> np.ndarray:
    """All vectors of a site and layer, sorted by sequence and position."""
    keys, parts = [], []
    for key, matrix in lake.vectors(layer, site, run=run, raw=raw):
        keys.append(pl.DataFrame(pl.from_arrow(key)).select("sequence_id", "position"))
        parts.append(matrix)
    frame = pl.concat(keys)
    assert frame.is_unique().all()
    order = np.lexsort((frame["position"].to_numpy(), frame["sequence_id"].to_numpy()))
    return np.concatenate(parts)[order]


def make_plan(settings: dict, **sizes: object) -> Plan:
    n = len(PROMPTS)
    samples = settings.get("samples", 1)
    return Plan(n_items=n, n_sequences=n * samples, n_prompt_tokens=0, bytes_per_token={},
                batch_size=settings["batch_size"], **sizes)  # type: ignore[arg-type]  # fmt: skip


CASES = [(name, mode) for name in ARCHITECTURES for mode in ("greedy", "sampled")]
CASES += [("gpt2", "eager"), ("mistral-window", "eager")]  # the others compute with SDPA, except Gemma-2


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def collected(
    request: pytest.FixtureRequest, model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Collected]]:
    architecture, mode = request.param
    yield architecture, run_case(architecture, mode, model_folder(architecture), tmp_path_factory.mktemp("lake"))


@pytest.fixture(scope="module")
def llama(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return run_case("llama", "greedy", model_folder("llama"), tmp_path_factory.mktemp("lake"))


def run_case(architecture: str, mode: str, folder: Path, path: Path) -> Collected:
    settings = SETTINGS[mode]
    config = CollectConfig(model=str(folder), prompt=PROMPTS, keep=keep_all(architecture), device="cpu", **settings)
    lake = Lake.create(path)
    run = Collection(config, plan=make_plan(settings, **PLANS[mode])).start(lake, assume_yes=True)
    return read_lake(lake, run.run_id, plain_model(folder, architecture), settings)


# -- comparisons -------------------------------------------------------------------------------------------------------


def predictions(run: Collected) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw logits behind every token that has a predecessor, its id, and its row among all tokens."""
    logits = np.concatenate([r.logits[:-1] for r in run.readings])
    ids = np.concatenate([r.ids[1:] for r in run.readings])
    return logits, ids, np.flatnonzero(run.positions > 0)


def spread(run: Collected, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` at `rows` of all tokens, NaN elsewhere."""
    found = np.full(len(run.tokens), np.nan)
    found[rows] = values
    return found


def check_distributions(run: Collected) -> None:
    logits, ids, rows = predictions(run)
    logprobs = log_probabilities(logits)
    best = -np.sort(-np.exp(logprobs), axis=-1)
    own = np.take_along_axis(logprobs, ids[:, None], -1)[:, 0]
    wanted = {
        "logprob": own,
        "surprisal_bits": -own / np.log(2),
        "entropy_bits": entropy_of(np.exp(logprobs)),
        "top1_prob": best[:, 0],
        "margin": best[:, 0] - best[:, 1],
        "top10_mass": best[:, :10].sum(-1),
    }
    for name in DISTRIBUTION:
        assert_close(name, run.tokens[name], spread(run, rows, wanted[name]))
    own_logit = np.take_along_axis(logits, ids[:, None], -1)
    rank = run.tokens["rank"]
    assert (rank.is_null().to_numpy() == (run.positions == 0)).all()
    if not run.settings.get("temperature"):
        assert (rank.filter(pl.Series(run.generated)) == 0).all(), "a greedy token that is not the best one"
    rank = rank.drop_nulls().to_numpy()
    assert (rank >= (logits > own_logit + 1e-5).sum(-1)).all(), "rank too small"
    assert (rank <= (logits > own_logit - 1e-5).sum(-1)).all(), "rank too large"
    assert (run.tokens["topk_ids"].is_null().to_numpy() == (run.positions == 0)).all()
    check_topk(run.tokens["topk_ids"].drop_nulls(), run.tokens["topk_logprobs"].drop_nulls(), logprobs)


def check_sampling(run: Collected) -> None:
    chosen = np.full(len(run.tokens), np.nan)
    entropy = chosen.copy()
    if run.settings.get("temperature"):
        logits, ids, rows = predictions(run)
        p = sampled_from(logits, **{name: run.settings[name] for name in ("temperature", "top_k", "top_p")})
        drawn = run.generated[rows]
        own = np.take_along_axis(p, ids[:, None], -1)[:, 0]
        assert (own[drawn] > 0).all(), "a token was drawn that the filters exclude"
        chosen[rows[drawn]], entropy[rows[drawn]] = np.log(own[drawn]), entropy_of(p[drawn])
    assert_close("sampling_logprob", run.tokens["sampling_logprob"], chosen)
    assert_close("sampling_entropy_bits", run.tokens["sampling_entropy_bits"], entropy)


def check_next(run: Collected) -> None:
    logprobs = log_probabilities(np.stack([r.logits[-1] for r in run.readings]))
    assert_close("next_entropy_bits", run.sequences["next_entropy_bits"], entropy_of(np.exp(logprobs)))
    check_topk(run.sequences["next_topk_ids"], run.sequences["next_topk_logprobs"], logprobs)


def check_layers(run: Collected) -> None:
    order = sorted(range(len(SUMMARY_SITES)), key=lambda i: (SUMMARY_SITES[i][1], SUMMARY_SITES[i][0]))
    n = len(run.tokens)
    assert run.layers["site"].to_list() == [SUMMARY_SITES[i][0] for i in order] * n
    assert run.layers["layer"].to_list() == [SUMMARY_SITES[i][1] for i in order] * n
    assert (run.layers["position"].to_numpy() == np.repeat(run.positions, len(order))).all()
    assert run.layers["n_nan"].sum() == run.layers["n_inf"].sum() == 0
    states = np.stack([run.states(site) for site in SUMMARY_SITES], axis=1).astype(np.float64)
    norm = np.linalg.norm(states, axis=-1)
    nothing = np.full((n, 1), np.nan)
    to_position = np.full(norm.shape, np.nan)
    with np.errstate(invalid="ignore"):  # the embedding of the padding token is zero: no cosine, which is null
        to_layer = (states[:, 1:] * states[:, :-1]).sum(-1) / (norm[:, 1:] * norm[:, :-1])
        to_position[1:] = (states[1:] * states[:-1]).sum(-1) / (norm[1:] * norm[:-1])
    to_position[run.positions == 0] = np.nan
    wanted = {
        "l2_norm": norm,
        "mean": states.mean(-1),
        "std": states.std(-1, ddof=1),
        "max_abs": np.abs(states).max(-1),
        "cos_prev_layer": np.concatenate((nothing, to_layer), axis=1),
        "cos_prev_position": to_position,
        "delta_norm": np.concatenate((nothing, np.linalg.norm(np.diff(states, axis=1), axis=-1)), axis=1),
    }
    wanted |= attention_columns(run)
    for name, values in wanted.items():
        assert_close(name, run.layers[name], values[:, order].ravel())


def attention_columns(run: Collected) -> dict[str, np.ndarray]:
    """attn_* per token and summary site: over the heads of the layer on resid_post, NaN on the other sites."""
    found = {}
    statistics = {
        "entropy_bits": np.concatenate([entropy_of(r.attention) for r in run.readings]),
        "max_weight": np.concatenate([r.attention.max(-1) for r in run.readings]),
    }
    for name, values in statistics.items():
        for reduction in ("mean", "min", "max"):
            reduced = getattr(values.astype(np.float64), reduction)(-1)
            columns = [reduced[:, layer] if site == "resid_post" else np.full(len(reduced), np.nan)
                       for site, layer in SUMMARY_SITES]  # fmt: skip
            found[f"attn_{name}_{reduction}"] = np.stack(columns, axis=1)
    return found


def check_heads(run: Collected) -> None:
    n, per_token = len(run.tokens), N_LAYERS * N_HEADS
    assert (run.heads["position"].to_numpy() == np.repeat(run.positions, per_token)).all()
    assert (run.heads["head"].to_numpy() == np.tile(np.arange(N_HEADS), n * N_LAYERS)).all()
    assert set(run.heads["kind"]) == {"self"}
    weights = np.concatenate([padded_keys(r.attention).reshape(-1, CONTEXT) for r in run.readings])
    n_keys = np.concatenate([np.repeat(r.n_keys, N_HEADS) for r in run.readings])
    # A float32 softmax gives 0 to a key that is not seen and to none that is: scores lie far from underflow.
    assert ((weights > 0).sum(-1) == n_keys).all(), "the reference does not know its own windows"
    assert (run.heads["n_keys"].to_numpy() == n_keys).all(), "n_keys"
    assert_close("entropy_bits", run.heads["entropy_bits"], entropy_of(weights))
    assert_close("max_weight", run.heads["max_weight"], weights.max(-1).astype(np.float64))
    keys = run.heads["max_key"].to_numpy()
    assert (keys >= 0).all() and (keys <= run.heads["position"].to_numpy()).all(), "max_key outside the sequence"
    assert_close("max_key", np.take_along_axis(weights, keys[:, None], -1)[:, 0], weights.max(-1).astype(np.float64))


def padded_keys(attention: np.ndarray) -> np.ndarray:
    return np.pad(attention, ((0, 0), (0, 0), (0, 0), (0, CONTEXT - attention.shape[-1])))


def check_basin(run: Collected) -> None:
    ratio = np.full((len(run.tokens), N_LAYERS, N_HEADS), np.nan)
    relative = ratio.copy()
    last = np.cumsum([0, *(len(r.ids) for r in run.readings)])[:-1] + [r.n_prompt - 1 for r in run.readings]
    for row, reading in zip(last, run.readings, strict=True):
        maps = reading.attention[: reading.n_prompt, :, :, : reading.n_prompt]
        ratio[row] = [[basin(maps[:, layer, head]) for head in range(N_HEADS)] for layer in range(N_LAYERS)]
        relative[row] = ratio[row] / uniform_basin(reading.n_prompt)
    assert_close("basin_ratio", run.heads["basin_ratio"], ratio.ravel())
    assert_close("basin_ratio_to_uniform", run.heads["basin_ratio_to_uniform"], relative.ravel())


def check_vectors(run: Collected) -> None:
    for (site, layer), found in run.vectors.items():
        wanted = run.states((site, layer))
        assert found.shape == wanted.shape, f"{site} of layer {layer}: {found.shape}, {wanted.shape} wanted"
        off = np.linalg.norm(found - wanted, axis=-1) - 1e-4 * np.linalg.norm(wanted, axis=-1)
        assert off.max() <= 0, f"{site} of layer {layer}: off in row {off.argmax()}"


CHECKS = (check_distributions, check_sampling, check_next, check_layers, check_heads, check_basin, check_vectors)


# -- the runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_stored_values_equal_a_plain_forward_pass(collected: tuple[str, Collected], check: Callable) -> None:
    check(collected[1])


def test_the_batches_were_hard(collected: tuple[str, Collected], model_folder: Callable[[str], Path]) -> None:
    """Values that are nearly uniform or nearly certain, or batches in which all is alike, would prove nothing."""
    architecture, run = collected
    tokenizer = AutoTokenizer.from_pretrained(model_folder(architecture))
    samples = run.settings.get("samples", 1)
    for i, reading in enumerate(run.readings):
        assert reading.ids[: reading.n_prompt].tolist() == tokenizer(PROMPTS[i // samples])["input_ids"]
    lengths = run.sequences["n_prompt_tokens"].to_list()
    assert min(lengths) == 1 and max(lengths) > 3 * PLANS["greedy"]["chunk"]
    assert sorted(set(lengths))[1] <= max(lengths) / 10
    assert set(run.sequences["finish_reason"]) == {"eos", "length"}
    assert run.sequences["n_generated_tokens"].n_unique() >= (3 if samples > 1 else 2)
    assert 0.05 < run.tokens["top1_prob"].median() < 0.95
    heads = run.heads.filter(pl.col("n_keys") > 5)
    to_uniform = (heads["entropy_bits"] / heads["n_keys"].log(2)).to_numpy()
    assert np.quantile(to_uniform, 0.1) < 0.8 and 0.1 < np.median(to_uniform) < 0.95
    assert heads["max_weight"].median() > 2 * (1 / heads["n_keys"]).median()


def test_structural_nulls_and_no_nan(collected: tuple[str, Collected]) -> None:
    run = collected[1]
    for frame in (run.sequences, run.tokens, run.layers, run.heads):
        assert not any(frame.select(cs.float().is_nan().any()).row(0))
    for column in (run.tokens["topk_logprobs"], run.sequences["next_topk_logprobs"]):
        assert column.explode().drop_nulls().is_finite().all()
    assert all(np.isfinite(values).all() for values in run.vectors.values())
    step = run.positions - np.repeat([r.n_prompt for r in run.readings], [len(r.ids) for r in run.readings])
    assert run.tokens["step"].to_list() == [None if s < 0 else s for s in step.tolist()]
    assert (run.tokens["is_prompt"].to_numpy() == ~run.generated).all()
    assert not run.tokens["is_forced"].any()
    assert (run.tokens["latency_ms"].is_null().to_numpy() == ~run.generated).all()
    assert (run.tokens["latency_ms"].drop_nulls() > 0).all()


def test_sites_add_up(collected: tuple[str, Collected]) -> None:
    """The identities that define the sites, on the stored vectors themselves."""
    architecture, run = collected
    v = run.vectors
    assert set(v) == {(s, layer) for s in sites_of(architecture) for layer in range(N_LAYERS)} | {SUMMARY_SITES[-1]}
    for layer in range(N_LAYERS):
        before, after = v["resid_pre", layer], v["resid_post", layer]
        attention, mlp = v["attn_out", layer], v["mlp_out", layer]
        np.testing.assert_allclose(before + attention + mlp, after, atol=1e-5, rtol=1e-5)
        if not ARCHITECTURES[architecture].parallel:
            np.testing.assert_allclose(before + attention, v["resid_mid", layer], atol=1e-5, rtol=1e-5)
        if layer:
            np.testing.assert_array_equal(before, v["resid_post", layer - 1])
        assert np.linalg.norm(attention, axis=-1).min() > 1e-2 < np.linalg.norm(mlp, axis=-1).min()


# -- the comparison sees -----------------------------------------------------------------------------------------------


def with_columns(frame: pl.DataFrame, **values: np.ndarray) -> pl.DataFrame:
    return frame.with_columns(**{name: pl.Series(value, dtype=frame[name].dtype) for name, value in values.items()})


def by_head(run: Collected, name: str) -> np.ndarray:
    return run.heads[name].to_numpy().reshape(-1, N_LAYERS, N_HEADS)


def swapped_heads(run: Collected) -> Collected:
    swap = [1, 0, *range(2, N_HEADS)]
    names = ("entropy_bits", "max_weight", "max_key")
    return replace(run, heads=with_columns(run.heads, **{n: by_head(run, n)[:, :, swap].ravel() for n in names}))


def swapped_head_vectors(run: Collected) -> Collected:
    z = run.vectors["z", 1].reshape(len(run.tokens), N_HEADS, -1)[:, [1, 0, *range(2, N_HEADS)]]
    return replace(run, vectors=run.vectors | {("z", 1): z.reshape(len(z), -1)})


def heads_of_the_layer_below(run: Collected) -> Collected:
    names = ("entropy_bits", "max_weight", "max_key")
    return replace(run, heads=with_columns(run.heads, **{n: np.roll(by_head(run, n), 1, 1).ravel() for n in names}))


def statistics_of_the_layer_below(run: Collected) -> Collected:
    norms = run.layers["l2_norm"].to_numpy().reshape(-1, len(SUMMARY_SITES))
    return replace(run, layers=with_columns(run.layers, l2_norm=np.roll(norms, 1, 1).ravel()))


def vectors_of_the_layer_below(run: Collected) -> Collected:
    below = {("resid_post", layer): run.vectors["resid_pre", layer] for layer in range(N_LAYERS)}
    return replace(run, vectors=run.vectors | below)


def vectors_one_position_late(run: Collected) -> Collected:
    return replace(run, vectors=run.vectors | {("mlp_out", 0): np.roll(run.vectors["mlp_out", 0], 1, axis=0)})


def distributions_one_position_early(run: Collected) -> Collected:
    return replace(run, tokens=run.tokens.with_columns(pl.col("entropy_bits").shift(-1)))


def distributions_one_position_early_nulls_in_place(run: Collected) -> Collected:
    present = run.tokens["entropy_bits"].is_not_null().to_numpy()
    values = run.tokens["entropy_bits"].to_numpy().copy()
    values[present] = np.roll(values[present], -1)
    frame = run.tokens.with_columns(entropy_bits=pl.Series(values, dtype=pl.Float32).fill_nan(None))
    return replace(run, tokens=frame)


def norms_one_position_late(run: Collected) -> Collected:
    norms = run.layers["l2_norm"].to_numpy().reshape(-1, len(SUMMARY_SITES))
    return replace(run, layers=with_columns(run.layers, l2_norm=np.roll(norms, 1, 0).ravel()))


def uniform_attention(run: Collected) -> Collected:
    n_keys = run.heads["n_keys"].to_numpy()
    return replace(run, heads=with_columns(run.heads, entropy_bits=np.log2(n_keys), max_weight=1 / n_keys))


def entropy_in_nats(run: Collected) -> Collected:
    return replace(run, heads=run.heads.with_columns(pl.col("entropy_bits") * np.log(2)))


def normed_last_state(run: Collected) -> Collected:
    return replace(run, vectors=run.vectors | {("resid_post", N_LAYERS - 1): run.vectors["final_norm", N_LAYERS - 1]})


def normed_last_statistics(run: Collected) -> Collected:
    norms = run.layers["l2_norm"].to_numpy().reshape(-1, len(SUMMARY_SITES)).copy()
    names = run.layers["site"].to_list()[: len(SUMMARY_SITES)]
    layers = run.layers["layer"].to_list()[: len(SUMMARY_SITES)]
    place = list(zip(names, layers, strict=True))
    norms[:, place.index(("resid_post", N_LAYERS - 1))] = norms[:, place.index(("final_norm", N_LAYERS - 1))]
    return replace(run, layers=with_columns(run.layers, l2_norm=norms.ravel()))


def padded_key_indexes(run: Collected) -> Collected:
    width = max(r.n_prompt for r in run.readings)
    pads = np.concatenate([np.full(len(r.ids) * N_LAYERS * N_HEADS, width - r.n_prompt) for r in run.readings])
    return replace(run, heads=with_columns(run.heads, max_key=run.heads["max_key"].to_numpy() + pads))


def padding_among_the_keys(run: Collected) -> Collected:
    width = max(r.n_prompt for r in run.readings)
    pads = np.concatenate([np.full(len(r.ids) * N_LAYERS * N_HEADS, width - r.n_prompt) for r in run.readings])
    return replace(run, heads=with_columns(run.heads, n_keys=run.heads["n_keys"].to_numpy() + pads))


def processed_as_raw(run: Collected) -> Collected:
    logits, ids, rows = predictions(run)
    p = sampled_from(logits, temperature=1.0, top_k=20, top_p=0.9)
    entropy = spread(run, rows, entropy_of(p))
    frame = run.tokens.with_columns(entropy_bits=pl.Series(entropy, dtype=pl.Float32).fill_nan(None))
    return replace(run, tokens=frame)


def basin_of_another_sequence(run: Collected) -> Collected:
    values = run.heads["basin_ratio"].to_numpy().copy()
    values[~np.isnan(values)] = np.roll(values[~np.isnan(values)], N_LAYERS * N_HEADS)
    frame = run.heads.with_columns(basin_ratio=pl.Series(values, dtype=pl.Float32).fill_nan(None))
    return replace(run, heads=frame)


def next_of_another_sequence(run: Collected) -> Collected:
    values = np.roll(run.sequences["next_entropy_bits"].to_numpy(), 1)
    return replace(run, sequences=with_columns(run.sequences, next_entropy_bits=values))


@pytest.mark.parametrize(
    ("corrupt", "check"),
    [
        (swapped_heads, check_heads),
        (swapped_head_vectors, check_vectors),
        (heads_of_the_layer_below, check_heads),
        (statistics_of_the_layer_below, check_layers),
        (vectors_of_the_layer_below, check_vectors),
        (vectors_one_position_late, check_vectors),
        (distributions_one_position_early, check_distributions),
        (distributions_one_position_early_nulls_in_place, check_distributions),
        (norms_one_position_late, check_layers),
        (uniform_attention, check_heads),
        (entropy_in_nats, check_heads),
        (normed_last_state, check_vectors),
        (normed_last_statistics, check_layers),
        (padded_key_indexes, check_heads),
        (padding_among_the_keys, check_heads),
        (processed_as_raw, check_distributions),
        (basin_of_another_sequence, check_basin),
        (next_of_another_sequence, check_next),
    ],
    ids=lambda function: function.__name__,
)
def test_the_comparison_sees(llama: Collected, corrupt: Callable, check: Callable) -> None:
    check(llama)
    with pytest.raises(AssertionError):
        check(corrupt(llama))
