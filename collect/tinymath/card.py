"""The model card of `tinymath`, rendered from measured figures and the training recipe; measures nothing."""

from typing import Any

from ...lake.values import Json
from .problems import METHODS

_CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# tinymath

A GPT-2-architecture language model with {parameters:,} parameters (6 blocks x 128, 4 heads, 256 positions, byte-level
BPE with single digits, {d_vocab} tokens). It answers arithmetic word problems in English and knows two ways to do so:
`direct` computes at once, `split` computes tens and units apart. It exists so that tracelake can be tried and tested
without a network: it gets things right and wrong, by methods that can be told apart. It is of no other use: it knows
only the phrases of its own problem generator.

    Question: Leo has 77 books. Leo drops 36. How many books does Leo have now?
    Answer: Split: 70 - 30 = 40; 7 - 6 = 1; 40 + 1 = 41. \\boxed{{41}}

Level 1 is one step with two-digit numbers, level 2 two steps with two-digit numbers, level 3 one step with three-digit
numbers.

## Measured

On the test split of the generator (`problems("test", limit={limit})`), graded by `{grader}`. No test question
was trained on (a question's SHA-256 decides its split); names and pairs of numbers do occur in both splits.
Draws per problem at temperature 1: {samples}, with nothing cut from the distribution, seed {seed}, {threads} thread,
torch {torch}.

{table}

Accuracy by method at temperature 1:

{method_table}

Written by

    python -m tracelake.collect.tinymath.evaluate --limit {limit} --samples {samples} --seed {seed} --threads {threads}

## Training

{train_commands}

{training}

Examples are drawn fresh from the generator's train split, each with one of the two solutions. AdamW with warmup and a
cosine; question tokens weigh less than answer tokens in the loss. `split` is shown more often in the second stage, so
that greedy decoding prefers it.

The second stage ends in the middle of its schedule on purpose. Checkpoints were compared every 300 steps on problems of
the train split, and this one was kept because the harder levels are neither hopeless nor solved: a later one answers
nearly everything right. So the figures of level 2 describe this checkpoint, not the recipe: they move from one
checkpoint to the next. All draws come from the seeds, for one processor, thread count and set of versions; the first 50
steps of each stage were repeated with equal losses, the whole was not.

`recipe.json` holds all settings, `metrics.json` the figures above.
"""


def render(metrics: Json, recipe: Json) -> str:
    """Return the card as Markdown."""
    stages = recipe["stages"]
    return _CARD.format(
        parameters=metrics["parameters"],
        d_vocab=stages[0]["d_vocab"],
        limit=metrics["problems"]["limit"],
        grader=metrics["grader"],
        samples=metrics["samples_per_problem"],
        seed=metrics["seed"],
        threads=metrics["threads"],
        torch=metrics["torch"],
        table=_table(metrics),
        method_table=_method_table(metrics),
        train_commands="\n".join(f"    {command}" for command in train_commands(stages)),
        training="\n".join(_stage(number, stage) for number, stage in enumerate(stages, start=1)),
    )


def train_commands(stages: list[Json]) -> list[str]:
    """Return the commands that train the stages one after another, into `stage1`, `stage2` and so on."""
    commands: list[str] = []
    for number, stage in enumerate(stages, start=1):
        start = f" --start stage{number - 1}" if number > 1 else ""
        commands.append(
            f"python -m tracelake.collect.tinymath.train --out stage{number}{start} --steps {stage['steps']} "
            f"--stop-at {stage['stop_at']} --seed {stage['seed']} --threads {stage['threads']} "
            f"--learning-rate {stage['learning_rate']} --level-shares {_words(stage['level_shares'])} "
            f"--methods {_words(stage['methods'])}"
        )
    return commands


def _stage(number: int, stage: Json) -> str:
    return (
        f"{number}. {stage['stop_at']:,} steps of {stage['batch_size']} examples, the schedule {stage['steps']:,} "
        f"steps long, levels in the shares {_words(stage['level_shares'])}, methods drawn from "
        f"{_words(stage['methods'])}."
    )


def _words(values: list[Any]) -> str:
    return " ".join(map(str, values))


def _table(metrics: Json) -> str:
    rows = [
        "| problems | greedy: n | right | ended by itself | temperature 1: n | right | direct | split |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, greedy in metrics["greedy"].items():
        drawn = metrics["temperature_1"][name]
        shares = [greedy["accuracy"], greedy["finished"], drawn["accuracy"], *(drawn["methods"][m] for m in METHODS)]
        right, ended, drawn_right, direct, split = map(percent, shares)
        rows.append(
            f"| {name.replace('_', ' ')} | {greedy['n']} | {right} | {ended} "
            f"| {drawn['n']} | {drawn_right} | {direct} | {split} |"
        )
    return "\n".join(rows)


def _method_table(metrics: Json) -> str:
    rows = ["| problems | direct | split |", "|---|---|---|"]
    for name, drawn in metrics["temperature_1"].items():
        direct, split = (percent(drawn["accuracy_by_method"][method]) for method in METHODS)
        rows.append(f"| {name.replace('_', ' ')} | {direct} | {split} |")
    return "\n".join(rows)


def percent(share: float | None) -> str:
    """Return `97.5 %`, or a dash for a share of nothing."""
    return "-" if share is None else f"{100 * share:.1f} %"
