"""A trained model that nobody here made, stories260K: every column against one plain pass, and its own texts.

It is not part of the repository. Where it does not lie beside the checkout, in ../shared/data, these tests are skipped.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from compared_tables import compared_tables
from plain_forward import basin, entropy_of, log_probabilities, sampled_from, uniform_basin
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import TABLES, Lake
from tracelake.lake.errors import StoppedError

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260K"
if not (FOLDER / "model.safetensors").is_file():
    pytest.skip(f"the model stories260K is not in {FOLDER}", allow_module_level=True)

PROMPTS = (
    "Once upon a time there was a little girl who loved to play outside in the park with her dog and her mom",
    "a",
    "Lily saw a",
    "The 猫 🙂 said",
    "Tom went to the park. He saw a",
)
MODES = {
    "greedy": {"stop": (".",), "batch_size": 5},
    "sampled": {"stop": (".",), "batch_size": 4, "samples": 2, "temperature": 0.9, "top_p": 0.9, "top_k": 40},
}
"""A sentence ends a sequence, so that those of a batch end at different steps."""
KEEP = ("tokens", "layers", "heads", "activations:resid_post", "activations:mlp_out@2", "activations:resid_pre@0")
N_LAYERS, N_HEADS, CHUNK = 5, 8, 16
SITES = [("resid_pre", 0), *(("resid_post", layer) for layer in range(N_LAYERS)), ("final_norm", N_LAYERS - 1)]


def collection(callbacks: Callbacks | None = None, **settings: object) -> Collection:
    """A collection of PROMPTS whose prompts are read in chunks."""
    defaults = {"model": str(FOLDER), "prompt": PROMPTS, "device": "cpu", "keep": KEEP, "max_new_tokens": 24}
    config = CollectConfig(**{**defaults, **settings})
    return Collection(config, callbacks, plan=dataclasses.replace(Collection(config).plan, chunk=CHUNK))


@dataclass(frozen=True)
class Plain:
    """What one plain pass over a sequence computes; the position is the first axis of every array."""

    ids: np.ndarray
    n_prompt: int
    logits: np.ndarray
    states: dict[tuple[str, int], np.ndarray]
    attention: np.ndarray
    """`[position layer head key]`"""


@dataclass(frozen=True)
class Run:
    """What the lake holds, sorted by key, beside plain passes over the same tokens."""

    lake: Lake
    sequences: pl.DataFrame
    tokens: pl.DataFrame
    layers: pl.DataFrame
    heads: pl.DataFrame
    plain: list[Plain]
    settings: dict

    def all(self, values: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(values)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(FOLDER, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module", params=MODES)
def run(request: pytest.FixtureRequest, model: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Run:
    lake = Lake.create(tmp_path_factory.mktemp("lake"))
    collection(**MODES[request.param]).start(lake, assume_yes=True)
    key = ["sequence_id", "position"]
    frames = {name: lake.scan(name).collect() for name in ("sequences", "token_steps")}
    sequences, tokens = frames["sequences"].sort("sequence_id"), frames["token_steps"].sort(key)
    ids = [part["token_id"].to_numpy().astype(np.int64) for part in tokens.partition_by("sequence_id")]
    return Run(
        lake,
        sequences,
        tokens,
        lake.scan("layer_summaries").sort(*key, "layer", "site").collect(),
        lake.scan("head_summaries").sort(*key, "layer", "head").collect(),
        [plain_pass(model, i, n) for i, n in zip(ids, sequences["n_prompt_tokens"], strict=True)],
        MODES[request.param],
    )


def plain_pass(model: LlamaForCausalLM, ids: np.ndarray, n_prompt: int) -> Plain:
    """The whole sequence at once, alone, without a cache; states from the library's own outputs and two hooks."""
    seen: dict[tuple[str, int], torch.Tensor] = {}

    def keep(site: str, layer: int) -> object:
        return lambda module, args, output: seen.__setitem__((site, layer), output)

    last, middle = model.model.layers[-1], model.model.layers[2].mlp
    hooks = [
        last.register_forward_hook(keep("resid_post", N_LAYERS - 1)),  # type: ignore[arg-type]
        middle.register_forward_hook(keep("mlp_out", 2)),  # type: ignore[arg-type]
    ]
    with torch.no_grad():
        output = model(torch.from_numpy(ids)[None], use_cache=False, output_hidden_states=True, output_attentions=True)
    for hook in hooks:
        hook.remove()
    hidden = output.hidden_states
    states = {("resid_pre", 0): hidden[0], ("final_norm", N_LAYERS - 1): hidden[-1], **seen}
    states |= {("resid_post", layer): hidden[layer + 1] for layer in range(N_LAYERS - 1)}
    attention = torch.stack([layer[0] for layer in output.attentions]).permute(2, 0, 1, 3)
    return Plain(
        ids, n_prompt, output.logits[0].numpy(), {k: v[0].numpy() for k, v in states.items()}, attention.numpy()
    )


def assert_close(name: str, stored: pl.Series, wanted: np.ndarray) -> None:
    """Equal within the tolerance of definitions A17, null exactly where `wanted` is NaN."""
    missing, values = stored.is_null().to_numpy(), stored.cast(pl.Float64).to_numpy()
    assert len(values) == wanted.size and (missing == np.isnan(wanted.ravel())).all(), name
    off = np.abs(values - wanted.ravel())[~missing] - (1e-5 + 1e-4 * np.abs(wanted.ravel()[~missing]))
    assert len(off) and off.max() <= 0, f"{name}: off by {off.max():.3g} more than allowed"


def shifted(run: Run, of: object) -> np.ndarray:
    """Per token, a value of the distribution that predicted it; NaN at position 0."""
    return run.all([np.concatenate(([np.nan], of(p))) for p in run.plain])  # type: ignore[operator]


def test_distributions(run: Run) -> None:
    logprobs = {id(p): log_probabilities(p.logits[:-1]) for p in run.plain}

    def own(p: Plain) -> np.ndarray:
        return np.take_along_axis(logprobs[id(p)], p.ids[1:, None], -1)[:, 0]

    def best(p: Plain) -> np.ndarray:
        return -np.sort(-np.exp(logprobs[id(p)]), axis=-1)

    wanted = {
        "logprob": own,
        "surprisal_bits": lambda p: -own(p) / np.log(2),
        "entropy_bits": lambda p: entropy_of(np.exp(logprobs[id(p)])),
        "top1_prob": lambda p: best(p)[:, 0],
        "margin": lambda p: best(p)[:, 0] - best(p)[:, 1],
        "top10_mass": lambda p: best(p)[:, :10].sum(-1),
    }
    for name, of in wanted.items():
        assert_close(name, run.tokens[name], shifted(run, of))
    ranks = shifted(run, lambda p: (p.logits[:-1] > np.take_along_axis(p.logits[:-1], p.ids[1:, None], -1)).sum(-1))
    assert (run.tokens["rank"].cast(pl.Float64).fill_null(np.nan).to_numpy() == ranks)[ranks >= 0].all()
    rows = [values for values in run.tokens["topk_logprobs"].to_list() if values is not None]
    top = [-np.sort(-logprobs[id(p)], axis=-1)[:, :10] for p in run.plain]
    assert_close("topk_logprobs", pl.Series(np.array(rows).ravel()), run.all(top))
    ids = np.array([values for values in run.tokens["topk_ids"].to_list() if values is not None])
    chosen = np.take_along_axis(run.all([logprobs[id(p)] for p in run.plain]), ids, -1)
    assert_close("topk_ids", pl.Series(chosen.ravel()), run.all(top))


def test_what_was_chosen(run: Run) -> None:
    """Greedy tokens are the best ones; sampled ones have the probability of the distribution they were drawn from."""
    steps = run.tokens.filter(~pl.col("is_prompt"))
    logits = run.all([p.logits[p.n_prompt - 1 : -1] for p in run.plain])
    ids = run.all([p.ids[p.n_prompt :] for p in run.plain])
    if "samples" not in run.settings:
        assert steps["sampling_logprob"].is_null().all() and steps["sampling_entropy_bits"].is_null().all()
        assert (logits.argmax(-1) == ids).all()
        return
    names = ("temperature", "top_k", "top_p")
    p = sampled_from(logits, **{name: run.settings[name] for name in names})
    assert_close("sampling_logprob", steps["sampling_logprob"], np.log(np.take_along_axis(p, ids[:, None], -1)[:, 0]))
    assert_close("sampling_entropy_bits", steps["sampling_entropy_bits"], entropy_of(p))
    assert run.tokens.filter(pl.col("is_prompt"))["sampling_logprob"].is_null().all()


def test_layer_summaries(run: Run) -> None:
    states = np.stack([run.all([p.states[site] for p in run.plain]) for site in SITES], axis=1).astype(np.float64)
    starts = np.cumsum([0, *(len(p.ids) for p in run.plain[:-1])])
    before = np.concatenate((states[:1], states[:-1]))
    below = states[:, :-1]
    norm = np.linalg.norm(states, axis=-1)
    cos_below = (states[:, 1:] * below).sum(-1) / norm[:, 1:] / norm[:, :-1]
    cos_before = (states * before).sum(-1) / norm / np.linalg.norm(before, axis=-1)
    cos_before[starts] = np.nan
    empty = np.full((len(states), 1), np.nan)
    wanted = {
        "l2_norm": norm,
        "mean": states.mean(-1),
        "std": states.std(-1, ddof=1),
        "max_abs": np.abs(states).max(-1),
        "n_nan": np.zeros_like(norm),
        "n_inf": np.zeros_like(norm),
        "cos_prev_layer": np.concatenate((empty, cos_below), axis=1),
        "cos_prev_position": cos_before,
        "delta_norm": np.concatenate((empty, np.linalg.norm(states[:, 1:] - below, axis=-1)), axis=1),
    }
    attention = run.all([np.stack((entropy_of(p.attention), p.attention.max(-1)), axis=-1) for p in run.plain])
    for i, name in enumerate(("entropy_bits", "max_weight")):
        for reduction in ("mean", "min", "max"):
            values = np.full_like(norm, np.nan)
            values[:, 1 : N_LAYERS + 1] = getattr(np, reduction)(attention[..., i], axis=-1)
            wanted[f"attn_{name}_{reduction}"] = values
    order = sorted(range(len(SITES)), key=lambda i: (SITES[i][1], SITES[i][0]))
    assert run.layers["site"].to_list()[: len(SITES)] == [SITES[i][0] for i in order]
    for name, values in wanted.items():
        assert_close(name, run.layers[name], values[:, order])


def test_head_summaries(run: Run) -> None:
    assert_close("entropy_bits", run.heads["entropy_bits"], run.all([entropy_of(p.attention) for p in run.plain]))
    assert_close("max_weight", run.heads["max_weight"], run.all([p.attention.max(-1) for p in run.plain]))
    shape = (-1, N_LAYERS, N_HEADS)
    keys, n_keys = (run.heads[name].to_numpy().reshape(shape) for name in ("max_key", "n_keys"))
    positions = run.all([np.arange(len(p.ids)) for p in run.plain])
    assert (n_keys == positions[:, None, None] + 1).all()
    start = 0
    ratio = np.full(keys.shape, np.nan)
    relative = np.full(keys.shape, np.nan)
    for p in run.plain:
        own = keys[start : start + len(p.ids)]
        weight = np.take_along_axis(p.attention, own[..., None].astype(np.int64), -1)[..., 0]
        assert (p.attention.max(-1) - weight <= 1e-5).all(), "the key with the largest weight"
        row, maps = start + p.n_prompt - 1, p.attention[: p.n_prompt, :, :, : p.n_prompt]
        ratio[row] = [[basin(maps[:, layer, head]) for head in range(N_HEADS)] for layer in range(N_LAYERS)]
        relative[row] = ratio[row] / uniform_basin(p.n_prompt)
        start += len(p.ids)
    assert_close("basin_ratio", run.heads["basin_ratio"], ratio)
    assert_close("basin_ratio_to_uniform", run.heads["basin_ratio_to_uniform"], relative)


def test_activations(run: Run) -> None:
    for site, layer in [*(("resid_post", layer) for layer in range(N_LAYERS)), ("mlp_out", 2), ("resid_pre", 0)]:
        parts = [(pl.DataFrame(pl.from_arrow(key)), matrix) for key, matrix in run.lake.vectors(layer, site)]
        frame = pl.concat([key.select("sequence_id", "position") for key, _ in parts])
        order = np.lexsort((frame["position"].to_numpy(), frame["sequence_id"].to_numpy()))
        vectors = np.concatenate([matrix for _, matrix in parts])[order]
        wanted = run.all([p.states[site, layer] for p in run.plain])
        assert vectors.shape == wanted.shape
        off = np.linalg.norm(vectors - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
        assert off.max() <= 1e-4, (site, layer)


def test_texts_are_the_models_own(run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = set()
    for row, p in zip(run.sequences.iter_rows(named=True), run.plain, strict=True):
        own = run.tokens.filter(pl.col("sequence_id") == row["sequence_id"])
        ids = p.ids.tolist()
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        assert row["prompt"] + row["completion"] == whole
        for i, end in list(enumerate(own["char_end"].to_list()))[p.n_prompt :]:
            assert row["prompt"] + row["completion"][:end] == tokenizer.decode(
                ids[: i + 1], skip_special_tokens=True
            ).rstrip("\ufffd")
        offsets = tokenizer(row["prompt"], return_offsets_mapping=True)["offset_mapping"]
        assert own["char_end"].to_list()[: p.n_prompt] == [end for _, end in offsets]
        pieces = tokenizer.convert_ids_to_tokens(ids)
        for piece, token in zip(pieces, own["token"].to_list(), strict=True):
            assert piece.startswith("\u2581") == token.startswith(" "), "a word's space is shown"
            if not piece.startswith("<0x"):
                assert token == piece.replace("\u2581", " ")
        shown = own["token"].to_list()[p.n_prompt :]
        assert "".join(shown) == row["completion"] or "\ufffd" in "".join(shown)
        lengths.add(row["n_generated_tokens"])
        assert row["finish_reason"] == ("stop_string" if "." in row["completion"] else "length")
    assert len(lengths) > 2, "sequences of a batch end at different steps"


def test_a_stop_text_with_its_space_at_the_start(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    collection(prompt=("Lily saw a",), keep=("tokens",), stop=(" big",)).start(lake)
    (row,) = lake.scan("sequences").collect().iter_rows(named=True)
    assert (row["completion"], row["finish_reason"], row["n_generated_tokens"]) == (" big", "stop_string", 1)


def test_interrupted_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    settings = {**MODES["sampled"], "segment_items": 2, "seed": 3}
    whole, broken = Lake.create(tmp_path / "whole"), Lake.create(tmp_path / "broken")
    collection(**settings).start(whole)
    done: list[int] = []
    callbacks = Callbacks(lambda p: done.append(p.segments_done), should_stop=lambda: bool(done) and done[-1] >= 1)
    with pytest.raises(StoppedError):
        collection(callbacks, **settings).start(broken)
    assert broken.sql("select count(*) n from sequences").item() in (
        4,
        8,
    )  # the next segment was begun while one was sealed
    assert resume_run(broken, "latest") is not None
    compared = 0
    for table in compared_tables(whole, broken):
        key = [name for name in TABLES[table.name].key if name != "run_id"]
        one, other = (
            lake.scan(table.name).drop("run_id", "latency_ms", "created_at", "finished_at", strict=False).sort(key)
            for lake in (whole, broken)
        )
        assert one.collect().equals(other.collect(), null_equal=True), table.name
        compared += one.collect().height
    assert compared > 1_000 and broken.verify("deep").ok
