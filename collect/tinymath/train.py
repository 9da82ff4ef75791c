"""Train `tinymath`, from nothing or from an earlier stage: `python -m tracelake.collect.tinymath.train --out DIR`.

All draws come from the seed, so the same commands on the same processor, thread count and versions should give the same
weights. A checkpoint that loads with `from_pretrained` is written at every evaluation, so an early stop is useful.
"""

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.generation.configuration_utils import GenerationConfig
from transformers.models.gpt2.configuration_gpt2 import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from ...lake.values import Json
from .evaluate import greedy_accuracy
from .problems import LEVELS, METHODS, Method, Problem, problems, stream
from .vocabulary import BOS_ID, EOS_ID, N_POSITIONS, PAD_ID, plain_text, train_tokenizer

log = logging.getLogger(__name__)

TOKENIZER_PROBLEMS = 3000
BUCKET_BATCHES = 25
"""Batches are cut from this many batches' worth of examples sorted by length: less padding to compute."""


@dataclass(frozen=True)
class Recipe:
    """Everything that one stage's weights depend on, besides the start, the processor and the versions."""

    steps: int = 5000
    """Length of the learning-rate schedule."""
    stop_at: int = 5000
    """Steps actually made."""
    seed: int = 0
    threads: int = 1
    batch_size: int = 48
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    weight_decay: float = 0.01
    question_weight: float = 0.1
    """Weight of a question token's loss, an answer token's being 1: operands cannot be foreseen."""
    level_shares: tuple[float, float, float] = (0.4, 0.25, 0.35)
    methods: tuple[Method, ...] = METHODS
    """Drawn from evenly: a method named twice is shown twice as often."""
    d_vocab: int = 448


def train(recipe: Recipe, out: Path, *, start: Path | None, evaluate_every: int, evaluate_problems: int) -> None:
    """Train by the recipe, from the weights in `start` if given, and keep the latest checkpoint in `out`."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    tokenizer, model, stages = begin(recipe, start)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, recipe), lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    held_out = list(problems("train", limit=evaluate_problems, seed=recipe.seed + 1))
    started, losses = time.perf_counter(), list[float]()
    for step, (ids, weights) in enumerate(islice(batches(tokenizer, recipe), recipe.stop_at), start=1):
        loss = weighted_loss(model(ids, use_cache=False, attention_mask=torch.ones_like(ids)).logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if step % 50 == 0:
            log.info("step %d loss %.4f %.0f s", step, sum(losses[-50:]) / 50, time.perf_counter() - started)
        if step % evaluate_every == 0 or step == recipe.stop_at:
            save(model, tokenizer, [*stages, asdict(recipe)], out)
            log.info("step %d greedy accuracy %s", step, greedy_accuracy(model, tokenizer, held_out))
            model.train()


def begin(recipe: Recipe, start: Path | None) -> tuple[PreTrainedTokenizerFast, GPT2LMHeadModel, list[Json]]:
    """Return tokenizer, model in training mode, and the settings of the stages before this one."""
    if start is None:
        tokenizer = train_tokenizer(_tokenizer_texts(recipe.seed), d_vocab=recipe.d_vocab)
        return tokenizer, new_model(tokenizer).train(), []
    stages = json.loads((start / "recipe.json").read_text(encoding="utf-8"))["stages"]
    # Made again, not loaded: a loaded tokenizer writes how it was loaded into its configuration.
    tokenizer = train_tokenizer(_tokenizer_texts(stages[0]["seed"]), d_vocab=stages[0]["d_vocab"])
    return tokenizer, GPT2LMHeadModel.from_pretrained(start).train(), stages


def new_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Return an untrained GPT-2 of 6 blocks x 128 with 4 heads."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=N_POSITIONS,
        n_embd=128,
        n_layer=6,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # equals gelu_new, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    return GPT2LMHeadModel(config)


def batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield token ids and loss weights, both `batch pos`, padded on the right, without end."""
    rng = random.Random(f"tinymath/batches/{recipe.seed}")
    # Another seed than the published train problems; the split's rule keeps the test questions out either way.
    sources = {level: stream("train", level, seed=recipe.seed + 1000) for level in LEVELS}
    while True:
        levels = rng.choices(LEVELS, weights=recipe.level_shares, k=recipe.batch_size * BUCKET_BATCHES)
        examples = [_encode(tokenizer, next(sources[level]), rng.choice(recipe.methods), recipe) for level in levels]
        examples.sort(key=lambda example: len(example[0]))
        starts = list(range(0, len(examples), recipe.batch_size))
        rng.shuffle(starts)
        for start in starts:
            yield _pad(examples[start : start + recipe.batch_size])


def weighted_loss(logits: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of next-token cross-entropies in nats (`batch pos vocab`, `batch pos`, `batch pos`)."""
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, stages: list[Json], out: Path) -> None:
    """Write a folder for `from_pretrained`, and beside it the settings of all stages that made it."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=PAD_ID)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    # Batch generation has left its padding in the tokenizer; saved, it would pad every later call.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps({"stages": stages}, indent=2) + "\n", encoding="utf-8")


def _encode(
    tokenizer: PreTrainedTokenizerFast, problem: Problem, method: Method, recipe: Recipe
) -> tuple[list[int], list[float]]:
    text = plain_text(problem, method)
    encoding = tokenizer.backend_tokenizer.encode(text)
    ids = [*encoding.ids, EOS_ID]
    prompt_end = len(text) - len(" " + problem.solutions[method])
    n_prompt = sum(end <= prompt_end for _, end in encoding.offsets)
    return ids, [recipe.question_weight] * n_prompt + [1.0] * (len(ids) - n_prompt)


def _pad(examples: list[tuple[list[int], list[float]]]) -> tuple[Tensor, Tensor]:
    longest = max(len(ids) for ids, _ in examples)
    ids = [ids + [PAD_ID] * (longest - len(ids)) for ids, _ in examples]
    weights = [weights + [0.0] * (longest - len(weights)) for _, weights in examples]
    return torch.tensor(ids), torch.tensor(weights)


def _tokenizer_texts(seed: int) -> list[str]:
    drawn = problems("train", limit=TOKENIZER_PROBLEMS, seed=seed)
    return [plain_text(problem, method) for problem in drawn for method in METHODS]


def _parameter_groups(model: GPT2LMHeadModel, recipe: Recipe) -> list[dict[str, object]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def _rate(step: int, recipe: Recipe) -> float:
    """Return the share of the learning rate: linear warmup, then a cosine down to 2 %."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def main() -> None:
    """Read the command line and train one stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, help="folder of an earlier stage; without it, training begins from nothing"
    )
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--stop-at", type=int, help="stop here, in the middle of the schedule; without it, at its end")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--threads", type=int, default=Recipe.threads)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    parser.add_argument("--level-shares", type=float, nargs=3, default=Recipe.level_shares)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=Recipe.methods)
    parser.add_argument("--evaluate-every", type=int, default=500)
    parser.add_argument("--evaluate-problems", type=int, default=192)
    options = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out, start = options.pop("out"), options.pop("start")
    every, count = options.pop("evaluate_every"), options.pop("evaluate_problems")
    options["stop_at"] = options["steps"] if options["stop_at"] is None else options["stop_at"]
    options["level_shares"], options["methods"] = tuple(options["level_shares"]), tuple(options["methods"])
    train(Recipe(**options), out, start=start, evaluate_every=every, evaluate_problems=count)


if __name__ == "__main__":
    main()
