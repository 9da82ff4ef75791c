"""Encoder-decoder models: every stored number against one plain teacher-forced pass per sequence.

Tolerances are those of `test_alignment`. The batches hold prompts of unequal length, one of a single token; sequences
leave the batch at different steps; the two stacks differ in depth and, in BART, in heads and width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from plain_encoder_decoder import PlainEncoderDecoder, Reading, Site
from plain_forward import basin, entropy_of, log_probabilities, sampled_from
from random_models import (
    DECODER_HEADS,
    ENCODER_DECODERS,
    ENCODER_HEADS,
    FORCED_FIRST,
    FORCED_LAST,
    N_DECODER_LAYERS,
    N_ENCODER_LAYERS,
    POST_NORM,
    PROMPTS,
    START,
)
from stored_values import assert_close, check_topk
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.observing.observation import ObservedStack
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake

N_LAYERS = {"encoder": N_ENCODER_LAYERS, "decoder": N_DECODER_LAYERS}
KINDS = {"encoder": ("self",), "decoder": ("self", "cross")}
THRESHOLD, CAP = 0.05, 12
KEY = ["sequence_id", "position"]
SAMPLING = {"temperature": 1.0, "top_p": 0.9, "top_k": 20}
SETTINGS: dict[str, dict] = {
    "greedy": {"max_new_tokens": 12, "batch_size": 5},
    "sampled": {"max_new_tokens": 12, "batch_size": 6, "samples": 2, **SAMPLING},
    "eager": {"max_new_tokens": 12, "batch_size": 5, "attn_implementation": "eager"},
}
EVERYWHERE = ("resid_pre", "resid_post", "mlp_post", "z", "v", "q", "k", "rot_q", "rot_k", "final_norm")
ADDED = ("attn_out", "resid_mid", "mlp_out", "cross_attn_out", "resid_mid_cross")
CASES = [("t5", "greedy"), ("t5", "sampled"), ("t5-gated", "greedy"), ("bart", "greedy"), ("bart", "sampled"),
         ("mbart", "greedy"), ("t5", "eager"), ("bart", "eager")]  # fmt: skip


@dataclass(frozen=True)
class Collected:
    """One run as the lake returns it, sorted by key, beside the plain readings of the same sequences."""

    architecture: str
    sequences: pl.DataFrame
    tokens: pl.DataFrame
    layers: pl.DataFrame
    heads: pl.DataFrame
    edges: pl.DataFrame
    vectors: dict[tuple[str, str, int], np.ndarray]
    readings: list[Reading]
    settings: dict

    def n_heads(self, stack: str) -> int:
        return (ENCODER_HEADS if stack == "encoder" else DECODER_HEADS)[self.architecture]

    def states(self, stack: str, site: Site) -> np.ndarray:
        return np.concatenate([r.stacks[stack].states[site] for r in self.readings])

    @property
    def step(self) -> np.ndarray:
        return np.concatenate([np.arange(len(r.ids)) - r.n_prompt for r in self.readings])

    @property
    def forced(self) -> np.ndarray:
        """Which tokens the generation_config of BART forces."""
        forced = np.zeros(len(self.tokens), dtype=bool)
        if self.architecture == "bart":
            forced = (self.step == 0) | (self.step == self.settings["max_new_tokens"] - 1)
        return forced


def summary_sites(stack: str) -> list[Site]:
    n = N_LAYERS[stack]
    return [("resid_pre", 0), *(("resid_post", layer) for layer in range(n)), ("final_norm", n - 1)]


def keep_all(architecture: str) -> tuple[str, ...]:
    sites = EVERYWHERE if architecture in POST_NORM else (*EVERYWHERE, *ADDED)
    return ("tokens", "layers", "heads", "edges:prompt", *(f"activations:{site}" for site in sites))


def collect(folder: Path, path: Path, settings: dict, keep: tuple[str, ...]) -> Lake:
    config = CollectConfig(
        model=str(folder), prompt=PROMPTS, keep=keep, device="cpu", edge_threshold=THRESHOLD, edge_cap=CAP, **settings
    )
    collection = Collection(config)
    collection.plan = replace(collection.plan, segments=[[0, 3], [3, 5]] if settings.get("samples") else [[0, 5]])
    for stack in collection.observed.stacks:  # type: ignore[union-attr]
        # Scores and states are reduced in several blocks.
        stack.columns = 7
        for observer in stack.observers.values():
            observer.block_bytes = 900
    lake = Lake.create(path)
    collection.start(lake, assume_yes=True)
    return lake


def read_lake(lake: Lake, folder: Path, architecture: str, settings: dict) -> Collected:
    names = ("sequences", "token_steps", "layer_summaries", "head_summaries", "attention_edges", "activations")
    frames = {name: lake.scan(name).collect() for name in names}
    tokens = frames["token_steps"].sort(KEY)
    plain = PlainEncoderDecoder(AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), architecture)
    readings = [
        plain.read(part["token_id"].to_numpy().astype(np.int64), int((part["stack"] == "encoder").sum()))
        for part in tokens.partition_by("sequence_id", maintain_order=True)
    ]
    vectors = {}
    for (stack, site, layer), part in frames["activations"].group_by("stack", "site", "layer"):
        rows = part.sort(KEY)["vector"].to_list()
        vectors[stack, site, layer] = np.stack([np.frombuffer(row, dtype="<f4") for row in rows])
    return Collected(
        architecture=architecture,
        sequences=frames["sequences"].sort("sequence_id"),
        tokens=tokens,
        layers=frames["layer_summaries"].sort(*KEY, "layer", "site"),
        heads=frames["head_summaries"].sort(*KEY, "layer", "head", "kind"),
        edges=frames["attention_edges"],
        vectors=vectors,
        readings=readings,
        settings=settings,
    )


def run_case(architecture: str, mode: str, folder: Path, path: Path) -> Collected:
    return read_lake(
        collect(folder, path, SETTINGS[mode], keep_all(architecture)), folder, architecture, SETTINGS[mode]
    )


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def collected(
    request: pytest.FixtureRequest, model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Collected]:
    architecture, mode = request.param
    yield run_case(architecture, mode, model_folder(architecture), tmp_path_factory.mktemp("lake"))


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_batches_of_one_need_no_mask(model_folder: Callable[[str], Path], tmp_path: Path, architecture: str) -> None:
    """Without padding the models make no mask, and none does not mean causal."""
    settings = {"max_new_tokens": 5, "batch_size": 1}
    folder = model_folder(architecture)
    run = read_lake(collect(folder, tmp_path, settings, keep_all(architecture)), folder, architecture, settings)
    for check in (check_axis, check_distributions, check_layers, check_heads, check_basin, check_edges, check_vectors):
        check(run)


@pytest.fixture(scope="module")
def t5(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return run_case("t5", "greedy", model_folder("t5"), tmp_path_factory.mktemp("lake"))


# -- comparisons -------------------------------------------------------------------------------------------------------


def check_axis(run: Collected) -> None:
    """One axis: encoder, start token, completion; what was forced, and nulls where nothing predicted."""
    tokens, step = run.tokens, run.step
    assert (tokens["position"].to_numpy() == np.concatenate([np.arange(len(r.ids)) for r in run.readings])).all()
    encoded = np.concatenate([np.arange(len(r.ids)) < r.n_encoded for r in run.readings])
    assert (tokens["stack"] == "encoder").to_list() == encoded.tolist()
    assert tokens["step"].to_list() == [None if s < 0 else s for s in step.tolist()]
    assert (tokens["is_prompt"].to_numpy() == (step < 0)).all()
    assert set(tokens.filter(pl.Series(step == -1))["token_id"]) == {START}
    assert run.sequences["n_prompt_tokens"].to_list() == [r.n_prompt for r in run.readings]
    assert run.sequences["n_generated_tokens"].to_list() == [len(r.ids) - r.n_prompt for r in run.readings]
    assert (tokens["is_forced"].to_numpy() == run.forced).all()
    for name in ("logprob", "entropy_bits", "rank", "topk_ids", "latency_ms"):
        assert (tokens[name].is_null().to_numpy() == (step < 0)).all(), name


def predictions(run: Collected) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw logits behind every generated token, its id, and its row among all tokens."""
    logits = np.concatenate([r.logits[:-1] for r in run.readings])
    ids = np.concatenate([r.ids[r.n_prompt :] for r in run.readings])
    return logits, ids, np.flatnonzero(run.step >= 0)


def spread(run: Collected, rows: np.ndarray, values: np.ndarray) -> np.ndarray:
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
    for name, values in wanted.items():
        assert_close(name, run.tokens[name], spread(run, rows, values))
    rank = run.tokens["rank"].to_numpy()[rows]
    own_logit = np.take_along_axis(logits, ids[:, None], -1)
    assert (rank >= (logits > own_logit + 1e-5).sum(-1)).all() and (rank <= (logits > own_logit - 1e-5).sum(-1)).all()
    if "temperature" not in run.settings:
        assert (rank[~run.forced[rows]] == 0).all(), "a greedy token that is not the best one"
    check_topk(run.tokens["topk_ids"].drop_nulls(), run.tokens["topk_logprobs"].drop_nulls(), logprobs)
    after = log_probabilities(np.stack([r.logits[-1] for r in run.readings]))
    assert_close("next_entropy_bits", run.sequences["next_entropy_bits"], entropy_of(np.exp(after)))
    check_topk(run.sequences["next_topk_ids"], run.sequences["next_topk_logprobs"], after)


def check_sampling(run: Collected) -> None:
    chosen = np.full(len(run.tokens), np.nan)
    entropy = chosen.copy()
    if "temperature" in run.settings:
        logits, ids, rows = predictions(run)
        p = sampled_from(logits, **SAMPLING)
        own = np.take_along_axis(p, ids[:, None], -1)[:, 0]
        drawn = ~run.forced[rows]
        assert (own[drawn] > 0).all(), "a token was drawn that the filters exclude"
        chosen[rows[drawn]], entropy[rows[drawn]] = np.log(own[drawn]), entropy_of(p[drawn])
    assert_close("sampling_logprob", run.tokens["sampling_logprob"], chosen)
    assert_close("sampling_entropy_bits", run.tokens["sampling_entropy_bits"], entropy)


def check_layers(run: Collected) -> None:
    for stack in N_LAYERS:
        sites = summary_sites(stack)
        order = sorted(range(len(sites)), key=lambda i: (sites[i][1], sites[i][0]))
        frame = run.layers.filter(pl.col("stack") == stack)
        positions = np.concatenate([r.stacks[stack].first + np.arange(r.stacks[stack].n) for r in run.readings])
        assert frame["site"].to_list() == [sites[i][0] for i in order] * len(positions)
        assert frame["layer"].to_list() == [sites[i][1] for i in order] * len(positions)
        assert (frame["position"].to_numpy() == np.repeat(positions, len(order))).all()
        states = np.stack([run.states(stack, site) for site in sites], axis=1).astype(np.float64)
        norm = np.linalg.norm(states, axis=-1)
        nothing = np.full((len(norm), 1), np.nan)
        to_position = np.full(norm.shape, np.nan)
        to_position[1:] = (states[1:] * states[:-1]).sum(-1) / (norm[1:] * norm[:-1])
        # A stack's first token has no token before it: the other stack's states are of another kind.
        to_position[np.cumsum([0, *(r.stacks[stack].n for r in run.readings)])[:-1]] = np.nan
        to_layer = (states[:, 1:] * states[:, :-1]).sum(-1) / (norm[:, 1:] * norm[:, :-1])
        wanted = {
            "l2_norm": norm,
            "mean": states.mean(-1),
            "std": states.std(-1, ddof=1),
            "max_abs": np.abs(states).max(-1),
            "cos_prev_layer": np.concatenate((nothing, to_layer), axis=1),
            "cos_prev_position": to_position,
            "delta_norm": np.concatenate((nothing, np.linalg.norm(np.diff(states, axis=1), axis=-1)), axis=1),
        }
        for name, values in (wanted | attention_columns(run, stack)).items():
            assert_close(f"{stack} {name}", frame[name], values[:, order].ravel())


def attention_columns(run: Collected, stack: str) -> dict[str, np.ndarray]:
    """attn_* per token and site: over the self-attention heads of the layer on resid_post, NaN elsewhere."""
    statistics = {
        "entropy_bits": np.concatenate([entropy_of(r.stacks[stack].attention["self"]) for r in run.readings]),
        "max_weight": np.concatenate([r.stacks[stack].attention["self"].max(-1) for r in run.readings]),
    }
    found = {}
    for name, values in statistics.items():
        for reduction in ("mean", "min", "max"):
            reduced = getattr(values.astype(np.float64), reduction)(-1)
            columns = [reduced[:, layer] if site == "resid_post" else np.full(len(reduced), np.nan)
                       for site, layer in summary_sites(stack)]  # fmt: skip
            found[f"attn_{name}_{reduction}"] = np.stack(columns, axis=1)
    return found


def check_heads(run: Collected) -> None:
    for stack, kinds in KINDS.items():
        for kind in kinds:
            frame = run.heads.filter(pl.col("stack") == stack, pl.col("kind") == kind)
            width = max(len(r.ids) for r in run.readings)
            maps = [r.stacks[stack].attention[kind] for r in run.readings]
            weights = np.concatenate(
                [np.pad(m, ((0, 0), (0, 0), (0, 0), (0, width - m.shape[-1]))).reshape(-1, width) for m in maps]
            )
            positions = [r.stacks[stack].first + np.arange(r.stacks[stack].n) for r in run.readings]
            per_token = N_LAYERS[stack] * run.n_heads(stack)
            assert (frame["position"].to_numpy() == np.repeat(np.concatenate(positions), per_token)).all()
            n_keys = np.repeat(np.concatenate([keys_of(r, stack, kind) for r in run.readings]), per_token)
            assert (frame["n_keys"].to_numpy() == n_keys).all(), f"{stack} {kind} n_keys"
            assert ((weights > 0).sum(-1) == n_keys).all(), "the reference does not know its own masks"
            assert_close(f"{stack} {kind} entropy_bits", frame["entropy_bits"], entropy_of(weights))
            best = weights.max(-1).astype(np.float64)
            assert_close(f"{stack} {kind} max_weight", frame["max_weight"], best)
            keys = frame["max_key"].to_numpy()
            assert (keys >= 0).all() and (keys < width).all(), "max_key outside the sequence"
            assert_close(f"{stack} {kind} max_key", np.take_along_axis(weights, keys[:, None], -1)[:, 0], best)


def keys_of(reading: Reading, stack: str, kind: str) -> np.ndarray:
    """Keys that each token of a stack may attend to."""
    n = reading.stacks[stack].n
    return np.arange(1, n + 1) if (stack, kind) == ("decoder", "self") else np.full(n, reading.n_encoded)


def check_basin(run: Collected) -> None:
    """On the encoder's last token, over its own attention; uniform attention sees all tokens alike."""
    wanted = {}
    for sequence_id, reading in enumerate(run.readings):
        n = reading.n_encoded
        maps = reading.stacks["encoder"].attention["self"][:, :, :, :n]
        uniform = basin(np.full((n, n), 1 / n))
        for layer in range(maps.shape[1]):
            for head in range(maps.shape[2]):
                ratio = basin(maps[:, layer, head])
                wanted[sequence_id, n - 1, layer, head] = (ratio, ratio / uniform)
    found = run.heads.filter(pl.col("basin_ratio").is_not_null())
    assert set(found["stack"]) == {"encoder"} and set(found["kind"]) == {"self"}
    assert sorted(wanted) == found.select(*KEY, "layer", "head").rows()
    values = np.array([wanted[key] for key in sorted(wanted)])
    assert_close("basin_ratio", found["basin_ratio"], values[:, 0])
    assert_close("basin_ratio_to_uniform", found["basin_ratio_to_uniform"], values[:, 1])


def check_edges(run: Collected) -> None:
    """The heaviest weights of the prompt: of the encoder's tokens, and of the start token on the encoder's."""
    seen = 0
    for sequence_id, reading in enumerate(run.readings):
        for stack, kind in (("encoder", "self"), ("decoder", "cross")):
            mine = run.edges.filter(
                pl.col("sequence_id") == sequence_id, pl.col("stack") == stack, pl.col("kind") == kind
            )
            seen += mine.height
            first = reading.stacks[stack].first
            maps = reading.stacks[stack].attention[kind][: reading.n_encoded if stack == "encoder" else 1]
            query, layer, head, key = (mine[name].to_numpy() for name in ("position", "layer", "head", "key"))
            np.testing.assert_allclose(
                mine["weight"].to_numpy(), maps[query - first, layer, head, key], rtol=1e-3, atol=1e-5
            )
            counts = np.zeros(maps.shape[1:3], dtype=int)
            np.add.at(counts, (layer, head), 1)
            over, near = (maps > THRESHOLD).sum((0, 3)), (np.abs(maps - THRESHOLD) < 1e-5).sum((0, 3))
            assert (np.abs(counts - np.minimum(over, CAP)) <= near).all(), f"{stack} {kind}"
    assert seen == run.edges.height > 100


def check_vectors(run: Collected) -> None:
    for (stack, site, layer), found in run.vectors.items():
        wanted = run.states(stack, (site, layer))
        assert found.shape == wanted.shape, f"{stack} {site} {layer}: {found.shape}, {wanted.shape} wanted"
        off = np.linalg.norm(found - wanted, axis=-1) - 1e-4 * np.linalg.norm(wanted, axis=-1)
        assert off.max() <= 0, f"{stack} {site} of layer {layer}: off in row {off.argmax()}"


CHECKS = (check_axis, check_distributions, check_sampling, check_layers, check_heads, check_basin, check_edges,
          check_vectors)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_stored_values_equal_a_plain_teacher_forced_pass(collected: Collected, check: Callable) -> None:
    check(collected)


def test_the_batches_were_hard(collected: Collected, model_folder: Callable[[str], Path]) -> None:
    run = collected
    tokenizer = AutoTokenizer.from_pretrained(model_folder(run.architecture))
    samples = run.settings.get("samples", 1)
    for i, reading in enumerate(run.readings):
        assert reading.ids[: reading.n_encoded].tolist() == tokenizer(PROMPTS[i // samples])["input_ids"]
    lengths = [r.n_encoded for r in run.readings]
    assert min(lengths) == 1 and max(lengths) > 3 * 7
    assert run.sequences["n_generated_tokens"].n_unique() >= 2
    assert set(run.sequences["finish_reason"]) == {"eos", "length"}
    assert 0.05 < run.tokens["top1_prob"].median() < 0.95
    for stack, kinds in KINDS.items():
        for kind in kinds:
            heads = run.heads.filter(pl.col("stack") == stack, pl.col("kind") == kind, pl.col("n_keys") > 5)
            to_uniform = (heads["entropy_bits"] / heads["n_keys"].log(2)).to_numpy()
            assert np.quantile(to_uniform, 0.1) < 0.85 and 0.1 < np.median(to_uniform) < 0.95


def test_every_site_of_both_stacks_is_there(collected: Collected) -> None:
    sites = EVERYWHERE if collected.architecture in POST_NORM else (*EVERYWHERE, *ADDED)
    wanted = set()
    for stack, n_layers in N_LAYERS.items():
        for site in sites:
            if stack == "encoder" and "cross" in site:
                continue
            wanted |= {
                (stack, site, layer) for layer in range(n_layers) if site != "final_norm" or layer == n_layers - 1
            }
    assert set(collected.vectors) == wanted
    if collected.architecture in POST_NORM:
        return
    for stack, n_layers in N_LAYERS.items():
        for layer in range(n_layers):
            v = {site: collected.vectors.get((stack, site, layer)) for site in sites}
            crossed = v["resid_mid"] if stack == "encoder" else v["resid_mid"] + v["cross_attn_out"]
            np.testing.assert_allclose(v["resid_pre"] + v["attn_out"], v["resid_mid"], atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(crossed + v["mlp_out"], v["resid_post"], atol=1e-5, rtol=1e-5)


def test_forced_tokens_and_reasons(collected: Collected) -> None:
    if collected.architecture != "bart":
        assert not collected.tokens["is_forced"].any()
        return
    last = collected.settings["max_new_tokens"] - 1
    assert set(collected.tokens.filter(pl.col("step") == 0)["token_id"]) == {FORCED_FIRST}
    assert set(collected.tokens.filter(pl.col("step") == last)["token_id"]) == {FORCED_LAST}
    at_limit = collected.sequences.filter(pl.col("n_generated_tokens") == last + 1)
    assert set(at_limit["finish_reason"]) == {"length"}


# -- the comparison sees -----------------------------------------------------------------------------------------------


def with_heads(run: Collected, stack: str, change: Callable[[np.ndarray], np.ndarray]) -> Collected:
    """The run with the values of one stack's self-attention changed, given as `[token layer head]`."""
    mine = (run.heads["stack"] == stack) & (run.heads["kind"] == "self")
    columns = {}
    for name in ("entropy_bits", "max_weight", "max_key"):
        values = run.heads[name].to_numpy().copy()
        shape = (-1, N_LAYERS[stack], run.n_heads(stack))
        values[mine.to_numpy()] = change(values[mine.to_numpy()].reshape(shape)).ravel()
        columns[name] = pl.Series(values, dtype=run.heads[name].dtype)
    return replace(run, heads=run.heads.with_columns(**columns))


def swapped_encoder_heads(run: Collected) -> Collected:
    return with_heads(run, "encoder", lambda values: values[:, :, [1, 0, 2, 3]])


def encoder_heads_of_the_layer_below(run: Collected) -> Collected:
    return with_heads(run, "encoder", lambda values: np.roll(values, 1, axis=1))


def decoder_heads_one_position_late(run: Collected) -> Collected:
    return with_heads(run, "decoder", lambda values: np.roll(values, 1, axis=0))


def self_and_cross_exchanged(run: Collected) -> Collected:
    other = pl.when(pl.col("stack") == "decoder").then(
        pl.when(pl.col("kind") == "self").then(pl.lit("cross")).otherwise(pl.lit("self"))
    )
    return replace(run, heads=run.heads.with_columns(kind=other.otherwise("kind")).sort(*KEY, "layer", "head", "kind"))


def keys_counted_from_the_decoder_s_start(run: Collected) -> Collected:
    n_encoded = pl.Series([r.n_encoded for r in run.readings])
    own = (pl.col("stack") == "decoder") & (pl.col("kind") == "self")
    shift = run.heads["sequence_id"].replace_strict(range(len(n_encoded)), n_encoded)
    key = pl.when(own).then(pl.col("max_key") - shift).otherwise("max_key").cast(pl.Int32)
    return replace(run, heads=run.heads.with_columns(max_key=key))


def encoder_statistics_of_the_layer_below(run: Collected) -> Collected:
    n = len(summary_sites("encoder"))
    mine = (run.layers["stack"] == "encoder").to_numpy()
    values = run.layers["l2_norm"].to_numpy().copy()
    values[mine] = np.roll(values[mine].reshape(-1, n), 1, axis=1).ravel()
    return replace(run, layers=run.layers.with_columns(l2_norm=pl.Series(values, dtype=pl.Float32)))


def vectors_of_the_layer_below(run: Collected) -> Collected:
    below = {("decoder", "resid_post", 1): run.vectors["decoder", "resid_post", 0]}
    return replace(run, vectors=run.vectors | below)


def vectors_one_position_late(run: Collected) -> Collected:
    late = {("encoder", "mlp_out", 0): np.roll(run.vectors["encoder", "mlp_out", 0], 1, axis=0)}
    return replace(run, vectors=run.vectors | late)


def cross_attention_out_as_self(run: Collected) -> Collected:
    return replace(run, vectors=run.vectors | {("decoder", "attn_out", 0): run.vectors["decoder", "cross_attn_out", 0]})


def distributions_one_position_early(run: Collected) -> Collected:
    values = run.tokens["entropy_bits"].to_numpy().copy()
    present = ~np.isnan(values)
    values[present] = np.roll(values[present], -1)
    return replace(run, tokens=run.tokens.with_columns(entropy_bits=pl.Series(values, dtype=pl.Float32).fill_nan(None)))


def causal_expectation(run: Collected) -> Collected:
    return replace(run, heads=run.heads.with_columns(pl.col("basin_ratio_to_uniform") * 1.3))


def edges_one_position_late(run: Collected) -> Collected:
    key = pl.when(pl.col("kind") == "cross").then((pl.col("key") - 1).clip(0)).otherwise("key")
    return replace(run, edges=run.edges.with_columns(key=key))


@pytest.mark.parametrize(
    ("corrupt", "check"),
    [
        (swapped_encoder_heads, check_heads),
        (encoder_heads_of_the_layer_below, check_heads),
        (decoder_heads_one_position_late, check_heads),
        (self_and_cross_exchanged, check_heads),
        (keys_counted_from_the_decoder_s_start, check_heads),
        (encoder_statistics_of_the_layer_below, check_layers),
        (vectors_of_the_layer_below, check_vectors),
        (vectors_one_position_late, check_vectors),
        (cross_attention_out_as_self, check_vectors),
        (distributions_one_position_early, check_distributions),
        (causal_expectation, check_basin),
        (edges_one_position_late, check_edges),
    ],
    ids=lambda function: function.__name__,
)
def test_the_comparison_sees(t5: Collected, corrupt: Callable, check: Callable) -> None:
    check(t5)
    with pytest.raises(AssertionError):
        check(corrupt(t5))


@pytest.mark.parametrize(
    ("stack", "mask", "checks"),
    [
        ("encoder", "attention_mask", (check_heads, check_layers, check_vectors)),
        ("decoder", "encoder_attention_mask", (check_heads, check_layers, check_vectors, check_distributions)),
    ],
)
def test_it_sees_that_the_encoder_s_padding_is_masked(
    model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    stack: str, mask: str, checks: tuple[Callable, ...],
) -> None:  # fmt: skip
    """A run in which one stack's mask of the encoder's padding is dropped fails the comparisons."""
    forward = ObservedStack.forward

    def without_mask(self: ObservedStack, *args: object, **inputs: object) -> object:
        if self.stack.name == stack:
            assert inputs[mask] is not None
            inputs[mask] = None
        return forward(self, *args, **inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(ObservedStack, "forward", without_mask)
    run = run_case("t5", "greedy", model_folder("t5"), tmp_path)
    for check in checks:
        with pytest.raises(AssertionError):
            check(run)


def test_all_architectures_are_tried() -> None:
    assert {architecture for architecture, _ in CASES} == set(ENCODER_DECODERS)
