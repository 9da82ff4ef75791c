"""What a device computes and stores, beside one plain pass of the same model on the same device."""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from benchmarks.gpt2_size import prompt_texts, save_words
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.lake import Lake
from tracelake.lake.errors import StoppedError

D_VOCAB, N_LAYERS = 2_048, 4
PROMPT_LENGTHS = (3, 40, 17, 1, 64, 29, 8, 33)
KEEP = (
    "tokens,layers,heads,activations:resid_pre,activations:attn_out,activations:mlp_out,activations:resid_post,"
    "activations:final_norm,activations:z",
)
SHAPE: dict[str, Any] = {
    "hidden_size": 256, "num_hidden_layers": N_LAYERS, "num_attention_heads": 8, "intermediate_size": 512,
    "vocab_size": D_VOCAB, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip
SHARED = {"num_key_value_heads": 2, "head_dim": 32}
CONFIGS: dict[str, PreTrainedConfig] = {
    "GPT-2": GPT2Config(
        n_embd=256, n_layer=N_LAYERS, n_head=8, vocab_size=D_VOCAB, bos_token_id=0, eos_token_id=None, pad_token_id=0
    ),
    "Llama": LlamaConfig(**SHAPE, **SHARED),
    "Qwen3": Qwen3Config(**SHAPE, **SHARED),
    "Mistral, window 24": MistralConfig(**SHAPE, **SHARED, sliding_window=24),
    "Gemma-2": Gemma2Config(**SHAPE, **SHARED, sliding_window=24),
}


@dataclass
class Differences:
    """The largest differences between a stored run and the plain passes over its sequences."""

    tokens: int = 0
    logprob: float = 0.0
    entropy_bits: float = 0.0
    states: float = 0.0
    """Of `resid_post` and `final_norm`, by norm."""
    identity: float = 0.0
    """`resid_pre + attn_out + mlp_out` against `resid_post`, by norm of the latter."""
    head_entropy_bits: float = 0.0
    rounding: float = 0.0
    """Of the plain pass itself, its states against those of a float32 pass with the same weights."""
    keys: int = 0
    """Heads whose number of keys is not the number of keys with weight in the plain map, or more than the window."""


def save_random(config: PreTrainedConfig, folder: Path) -> Path:
    """Save a random model of this configuration, its weights four times the usual size, and its tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    save_words(folder, D_VOCAB)
    return folder


def prompts() -> tuple[str, ...]:
    """Texts of unequal lengths."""
    draws = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, D_VOCAB - 1, (n,), generator=draws) for n in PROMPT_LENGTHS]
    return tuple(text for row in ids for text in prompt_texts(row[None], D_VOCAB))


def collected(model: Path, lake: Lake, dtype: str, device: str, **options: Any) -> tuple[str, Collection]:
    """A committed run over the prompts in batches of unequal lengths."""
    settings = {"max_new_tokens": 24, "batch_size": 4, **options}
    config = CollectConfig(
        model=str(model), prompt=prompts(), keep=KEEP, dtype=dtype, device=device,
        store_dtype="float32" if dtype == "float32" else "auto", **settings,
    )  # fmt: skip
    collection = Collection(config)
    return collection.start(lake, assume_yes=True).run_id, collection


def differences(lake: Lake, run_id: str, model: Any) -> Differences:
    """Compare every sequence of a run with one pass that knows neither batches nor caches."""
    result = Differences()
    exact = copy.deepcopy(model).float()
    steps = lake.sql("from token_steps where run_id = ? order by sequence_id, position", [run_id])
    heads = lake.sql("from head_summaries where run_id = ? order by sequence_id, position, layer, head", [run_id])
    vectors = _stored_vectors(lake, run_id)
    for (sequence,), rows in steps.partition_by("sequence_id", as_dict=True).items():
        ids = torch.tensor(rows["token_id"].to_list(), device=model.device)[None]
        with torch.no_grad():
            plain = model(ids, use_cache=False, output_hidden_states=True, output_attentions=True)
        logprobs = plain.logits[0].float().log_softmax(-1)
        chosen = logprobs[:-1].gather(1, ids[0, 1:, None])[:, 0].cpu().numpy()
        entropy = (-(logprobs.exp() * logprobs).sum(-1)[:-1] / np.log(2)).cpu().numpy()
        result.tokens += len(rows)
        result.logprob = _worst(result.logprob, rows["logprob"].to_numpy()[1:] - chosen)
        result.entropy_bits = _worst(result.entropy_bits, rows["entropy_bits"].to_numpy()[1:] - entropy)
        states = [state[0].float().cpu().numpy() for state in plain.hidden_states]
        _compare_states(result, vectors, int(sequence), states)
        with torch.no_grad():
            reference = exact(ids, use_cache=False, output_hidden_states=True).hidden_states
        for state, exactly in zip(states, reference, strict=True):
            result.rounding = max(result.rounding, _relative(state, exactly[0].cpu().numpy()))
        maps = torch.stack([layer[0].float() for layer in plain.attentions])
        _compare_heads(result, heads.filter(heads["sequence_id"] == sequence), maps)
    return result


def _stored_vectors(lake: Lake, run_id: str) -> dict[tuple[str, int], dict[int, np.ndarray]]:
    """By site and layer, the vectors of every sequence in the order of positions."""
    sites = lake.sql("select distinct site, layer from activations where run_id = ?", [run_id]).rows()
    result = {}
    for site, layer in sites:
        frame = lake.sql(
            "select sequence_id, position, vector from activations where run_id = ? and site = ? and layer = ? "
            "order by sequence_id, position",
            [run_id, site, layer],
        )
        groups = frame.partition_by("sequence_id", as_dict=True).items()
        result[site, layer] = {int(key[0]): np.array(group["vector"].to_list(), np.float32) for key, group in groups}
    return result


def _compare_states(
    result: Differences, vectors: dict[tuple[str, int], dict[int, np.ndarray]], sequence: int, plain: list[np.ndarray]
) -> None:
    """`plain` holds the input of every block, then the final-normed state."""
    for layer in range(N_LAYERS):
        pre, attention, mlp, post = (
            vectors[site, layer][sequence] for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        result.identity = max(result.identity, _relative(pre + attention + mlp, post))
        result.states = max(result.states, _relative(pre, plain[layer]))
        if layer + 1 < N_LAYERS:
            result.states = max(result.states, _relative(post, plain[layer + 1]))
    result.states = max(result.states, _relative(vectors["final_norm", N_LAYERS - 1][sequence], plain[-1]))


def _compare_heads(result: Differences, rows: Any, maps: torch.Tensor) -> None:
    """`maps` are `[layer head query key]`; rows come by position, layer, head."""
    bits = -(maps * maps.clamp_min(1e-45).log2()).sum(-1).permute(2, 0, 1).flatten().cpu().numpy()
    keys = (maps > 0).sum(-1).permute(2, 0, 1).flatten().cpu().numpy()
    result.head_entropy_bits = _worst(result.head_entropy_bits, rows["entropy_bits"].to_numpy() - bits)
    # A weight may round to zero in the plain map, but none may appear that our count leaves out.
    result.keys += int((rows["n_keys"].to_numpy() < keys).sum())


def _relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of one position, by norm; infinite where something is not a number."""
    lengths = np.maximum(np.linalg.norm(theirs, axis=-1), 1e-6)
    return _worst(0.0, np.linalg.norm(ours - theirs, axis=-1) / lengths)


def _worst(so_far: float, values: np.ndarray) -> float:
    return max(so_far, float(np.nan_to_num(np.abs(values), nan=np.inf).max()))


def compare(architecture: str, dtype: str, device: str, *, joined: bool = False) -> Differences:
    """Collect with one architecture and number format on `device`, then read its tokens plainly there.

    `joined`: sequences end at different steps, and others take their places in the batch.
    """
    options: dict[str, Any] = {}
    if joined:
        ends = tuple(prompt_texts(torch.arange(1, D_VOCAB - 1, 8)[None], D_VOCAB)[0].split())
        options = {"samples": 4, "temperature": 1.0, "batch_size": 3, "stop": ends}
    with tempfile.TemporaryDirectory() as folder:
        model = save_random(CONFIGS[architecture], Path(folder) / "model")
        lake = Lake.create(Path(folder) / "lake")
        run_id, _ = collected(model, lake, dtype, device, **options)
        n_joins = lake.sql("select coalesce(sum(count), 0) from operations where name = 'join'").item()
        if joined != (n_joins > 0):
            raise RuntimeError(f"{n_joins} joins where {'some' if joined else 'none'} were meant.")
        plain = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype), attn_implementation="eager")
        return differences(lake, run_id, plain.to(device).eval())


def resumed_like_uninterrupted(device: str) -> tuple[int, int, float]:
    """Tokens compared, tokens that differ and the largest difference of a logprob, after a stop in the middle."""
    with tempfile.TemporaryDirectory() as folder:
        model = save_random(CONFIGS["Llama"], Path(folder) / "model")
        lake = Lake.create(Path(folder) / "lake")
        options = {"samples": 2, "temperature": 1.0, "segment_items": 2}
        whole, collection = collected(model, lake, "float32", device, **options)
        stopped = _stopped_run(lake, collection.config)
        resume_run(lake, stopped)
        order = "select token_id, logprob from token_steps where run_id = ? order by sequence_id, position"
        first, second = lake.sql(order, [whole]), lake.sql(order, [stopped])
        changed = int((first["token_id"] != second["token_id"]).sum())
        differing = np.abs(first["logprob"].to_numpy() - second["logprob"].to_numpy())
        return len(first), changed, float(np.nanmax(differing))


def _stopped_run(lake: Lake, config: CollectConfig) -> str:
    """A run of the same configuration that was asked to stop after its first segment."""
    before = set(lake.sql("select run_id from runs")["run_id"])
    done = 0

    def after(progress: Any) -> None:
        nonlocal done
        done = progress.segments_done

    try:
        Collection(config, Callbacks(on_progress=after, should_stop=lambda: done >= 1)).start(lake, assume_yes=True)
    except StoppedError:
        pass
    (run_id,) = set(lake.sql("select run_id from runs")["run_id"]) - before
    return run_id
