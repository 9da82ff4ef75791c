"""Measure `tinymath` on its test problems: `python -m tracelake.collect.tinymath.evaluate`.

Writes `metrics.json` and the model card beside the weights, so that no figure in the card is typed by hand.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.gpt2.modeling_gpt2 import GPT2LMHeadModel
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from ...lake.values import Json
from ..inputs.grading import EXACT, grade, solution_method
from . import WEIGHTS
from .card import render
from .problems import LEVELS, METHODS, SIZES, Problem, problems

BATCH_SIZE = 64
MAX_NEW_TOKENS = 120
"""More than the longest solution of the generator, so that what does not end by itself counts as unfinished."""


class Completion(NamedTuple):
    """Generated text without special tokens, and whether the model ended it by itself."""

    text: str
    finished: bool


def measure(weights: Path, *, limit: int, samples: int, seed: int) -> Json:
    """Return greedy figures and, at temperature 1, figures of `samples` draws per test problem."""
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = GPT2LMHeadModel.from_pretrained(weights)
    asked = list(problems("test", limit=limit))
    greedy = complete(model, tokenizer, asked)
    torch.manual_seed(seed)
    drawn_for = [problem for problem in asked for _ in range(samples)]
    drawn = complete(model, tokenizer, drawn_for, temperature=1.0)
    return {
        "problems": {"split": "test", "limit": limit},
        "samples_per_problem": samples,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "grader": EXACT,
        "parameters": model.num_parameters(),
        "greedy": _by_level(asked, greedy),
        "temperature_1": _by_level(drawn_for, drawn),
    }


def greedy_accuracy(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, asked: Sequence[Problem]
) -> dict[str, float]:
    """Return the share of right greedy answers per level, and of the `direct` method as `direct`."""
    figures = _by_level(asked, complete(model, tokenizer, asked))
    accuracy = {level: figures[level]["accuracy"] for level in figures}
    return accuracy | {"direct": figures["all"]["methods"]["direct"]}


@torch.no_grad()
def complete(
    model: GPT2LMHeadModel,
    tokenizer: PreTrainedTokenizerFast,
    asked: Sequence[Problem],
    *,
    temperature: float = 0.0,
) -> list[Completion]:
    """Answer each problem through the chat template; temperature 0 is greedy."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    settings = sampling if temperature > 0 else {"do_sample": False}
    model.eval()
    answered: list[Completion] = []
    for start in range(0, len(asked), BATCH_SIZE):
        prompts = [render_prompt(tokenizer, problem) for problem in asked[start : start + BATCH_SIZE]]
        inputs = tokenizer(prompts, add_special_tokens=False, padding=True, return_tensors="pt")
        # The protocol that transformers types `generate` with is not met by its own models.
        ids = model.generate(**inputs, **settings, max_new_tokens=MAX_NEW_TOKENS)  # pyright: ignore[reportAttributeAccessIssue]
        new_ids = ids[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(new_ids, skip_special_tokens=True)
        finished = (new_ids == tokenizer.eos_token_id).any(dim=1).tolist()
        answered += map(Completion, texts, finished)
    return answered


def render_prompt(tokenizer: PreTrainedTokenizerFast, problem: Problem) -> str:
    """Return the text before the answer, begin token included: tokenise it without adding special tokens."""
    messages = [{"role": "user", "content": problem.question}]
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _by_level(asked: Sequence[Problem], answered: Sequence[Completion]) -> dict[str, Json]:
    pairs = list(zip(asked, answered, strict=True))
    groups = {f"level_{level}": [pair for pair in pairs if pair[0].level == level] for level in LEVELS}
    return {name: _figures(group) for name, group in (groups | {"all": pairs}).items() if group}


def _figures(group: Sequence[tuple[Problem, Completion]]) -> Json:
    """Return shares rounded to four places; accuracy by method counts that method's completions only."""
    methods = [solution_method(completion.text) for _, completion in group]
    right = [grade(completion.text, problem.answer).correct for problem, completion in group]
    count = Counter(methods)
    right_by = Counter(method for method, correct in zip(methods, right, strict=True) if correct)
    return {
        "n": len(group),
        "accuracy": round(sum(right) / len(group), 4),
        "finished": round(sum(completion.finished for _, completion in group) / len(group), 4),
        "methods": {method: round(count[method] / len(group), 4) for method in METHODS},
        "accuracy_by_method": {m: round(right_by[m] / count[m], 4) if count[m] else None for m in METHODS},
    }


def main() -> None:
    """Read the command line, measure, and write `metrics.json` and `README.md`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--limit", type=int, default=SIZES["test"])
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    metrics = measure(options.weights, limit=options.limit, samples=options.samples, seed=options.seed)
    recipe = json.loads((options.weights / "recipe.json").read_text(encoding="utf-8"))
    (options.weights / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (options.weights / "README.md").write_text(render(metrics, recipe), encoding="utf-8")


if __name__ == "__main__":
    main()
