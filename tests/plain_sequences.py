"""Compares what a run stored with one plain pass per sequence, for a causal model of any architecture."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from random_models import N_LAYERS, PROMPTS
from torch import nn
from transformers import AutoModelForCausalLM

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.reading.reading import Reading
from tracelake.collect.running.collector import Collected, Collection
from tracelake.lake import Lake

KEEP = ("tokens", "layers", "activations:resid_post", "activations:final_norm")
PRECISION = {"scalar": (1e-5, 1e-4), "vector": 1e-4}

Plain = tuple[np.ndarray, dict[tuple[str, int], np.ndarray]]
"""Logits of every token, and states by site and layer."""


def collect(
    folder: Path, path: Path, *, chunk: int = 5, reading: Reading | None = None, **settings: object
) -> tuple[Lake, Collected]:
    """A run over `random_models.PROMPTS`, read in chunks that are shorter than the longest of them.

    `reading` is used in place of the one that the model's check found.
    """
    wanted = {"prompt": PROMPTS, "keep": KEEP, "device": "cpu", "max_new_tokens": 10, "batch_size": 5, **settings}
    collection = Collection(CollectConfig(model=str(folder), **wanted))
    collection.plan = replace(collection.plan, chunk=chunk, reading=reading or collection.plan.reading)
    lake = Lake.create(path)
    return lake, collection.start(lake, assume_yes=True)


class PlainCausal:
    """A model as transformers loads it, run on one sequence at a time without a cache."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        lists = [module for module in self.model.modules() if isinstance(module, nn.ModuleList)]
        self.blocks = next(blocks for blocks in lists if len(blocks) == N_LAYERS)

    def read(self, ids: np.ndarray, n_prompt: int = 0) -> Plain:
        """One pass over all of `ids`."""
        seen: dict[tuple[str, int], torch.Tensor] = {}
        with torch.no_grad(), self._hooked(seen):
            logits = self.model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits
        return logits[0].double().numpy(), {key: state[0].numpy() for key, state in seen.items()}

    @contextmanager
    def _hooked(self, seen: dict[tuple[str, int], torch.Tensor]) -> Iterator[None]:
        def hook(key: tuple[str, int]) -> Callable:
            def keep(module: nn.Module, args: tuple, output: object) -> None:
                state = getattr(output, "last_hidden_state", None)
                if state is None:
                    state = output if isinstance(output, torch.Tensor) else output[0]  # type: ignore[index]
                seen[key] = state

            return keep

        handles = [block.register_forward_hook(hook(("resid_post", i))) for i, block in enumerate(self.blocks)]
        # OPT's head calls the decoder inside its base model, the others the base model.
        base = self.model.base_model
        for module in filter(None, (base, getattr(base, "decoder", None))):
            handles.append(module.register_forward_hook(hook(("final_norm", N_LAYERS - 1))))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def generate(self, prompt: np.ndarray, n: int) -> list[int]:
        """What the library writes greedily."""
        ids = torch.from_numpy(prompt)[None]
        options = {"do_sample": False, "max_new_tokens": n, "eos_token_id": None, "pad_token_id": 2}
        return self.model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()


def sequences_of(lake: Lake, run: str) -> dict[int, pl.DataFrame]:
    """The `token_steps` of each sequence, by position."""
    tokens = lake.scan("token_steps", run=run).collect().sort("sequence_id", "position")
    return {int(part["sequence_id"][0]): part for part in tokens.partition_by("sequence_id")}


def check_run(lake: Lake, run: str, read: Callable[[np.ndarray, int], Plain], *, greedy: bool = True) -> None:
    """Every distribution and every state of a run against plain passes.

    `read` gives one for a sequence's ids, the first n of which are its prompt.
    """
    plain: dict[int, Plain] = {}
    for number, tokens in sequences_of(lake, run).items():
        ids = tokens["token_id"].to_numpy().astype(np.int64)
        plain[number] = read(ids, int(tokens["is_prompt"].sum()))
        _check_distributions(tokens, ids, plain[number][0], greedy=greedy)
    _check_vectors(lake, run, plain)
    _check_norms(lake, run, plain)


def _check_distributions(tokens: pl.DataFrame, ids: np.ndarray, logits: np.ndarray, *, greedy: bool) -> None:
    shifted = logits - logits.max(-1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    own = logprobs[np.arange(len(ids) - 1), ids[1:]]
    entropy = -(np.exp(logprobs) * logprobs).sum(-1)[:-1] / np.log(2)
    assert tokens["logprob"][0] is None
    _close("logprob", tokens["logprob"][1:].to_numpy(), own)
    _close("entropy_bits", tokens["entropy_bits"][1:].to_numpy(), entropy)
    generated = ~tokens["is_prompt"].to_numpy()
    if greedy:
        best = logits.max(-1)[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]
        assert (best[generated[1:]] <= 1e-4 * np.abs(logits).max()).all(), "not the best token"


def _check_vectors(lake: Lake, run: str, plain: dict[int, Plain]) -> None:
    sites = lake.scan("activations", run=run).select("site", "layer").unique().collect().rows()
    assert len(sites) == N_LAYERS + 1
    for site, layer in sites:
        for keys, matrix in lake.vectors(layer, site, run=run):
            frame = pl.DataFrame(pl.from_arrow(keys))
            for row, (number, position) in enumerate(frame.select("sequence_id", "position").iter_rows()):
                wanted = plain[number][1][site, layer][position]
                error, norm = np.linalg.norm(matrix[row] - wanted), np.linalg.norm(wanted)
                assert error <= PRECISION["vector"] * norm, f"{site} {layer} at {number}, {position}: {error}"


def _check_norms(lake: Lake, run: str, plain: dict[int, Plain]) -> None:
    rows = lake.scan("layer_summaries", run=run).collect().filter(pl.col("site") == "resid_post")
    for number, layer, position, norm, cosine in rows.select(
        "sequence_id", "layer", "position", "l2_norm", "cos_prev_position"
    ).iter_rows():
        states = plain[number][1]["resid_post", layer]
        _close("l2_norm", np.array(norm), np.linalg.norm(states[position]))
        a, b = states[position], states[position - 1]
        # Padding tokens have the embedding zero in many models.
        if position and a.any() and b.any():
            _close("cos_prev_position", np.array(cosine), a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _close(name: str, stored: np.ndarray, wanted: np.ndarray) -> None:
    absolute, relative = PRECISION["scalar"]
    worst = float((np.abs(stored - wanted) - relative * np.abs(wanted)).max(initial=0.0))
    assert worst <= absolute, f"{name} is off by {worst} more than it may"
