"""Branches of one stored sequence that share its beginning: over regenerating each, and over reading it each time."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.gpt2_size import prompt_ids, prompt_texts, save_model
from benchmarks.measurement import Quiet, Result, arguments, interleave, ratio_range, speed_ratio, timed
from benchmarks.report import finish
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding import prefill
from tracelake.collect.inputs.prompts import open_source
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake

BATCH = 8


class Branching:
    """Collects the same branches again and again; `sharing` off lets every branch read its beginning itself."""

    def __init__(self, lake: Lake, config: CollectConfig, *, sharing: bool) -> None:
        self.lake, self.sharing = lake, sharing
        self.collection = Collection(config, source=open_source(config, lake=lake))

    def __call__(self) -> None:
        """One committed run, removed again."""
        with nullcontext() if self.sharing else patch.object(prefill, "can_share", lambda *arguments: False):
            run = self.collection.start(self.lake, assume_yes=True).run_id
        self.lake.remove(run, dry_run=False, now=True)


def regenerating(model: Any, prompt: torch.Tensor, steps: range, new_tokens: int) -> Callable[[], float]:
    """Every branch from its prompt on: the baseline's tokens generated again, one token forced, the rest generated."""

    def one(step: int) -> None:
        ids = prompt
        for n in (step, new_tokens):
            if n:
                ids = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False)
            ids = torch.cat((ids, ids[:, :1]), dim=1)

    def run() -> None:
        with torch.inference_mode():
            for step in steps:
                one(step)

    return timed(run)


def compare_branches(result: Result, lake: Lake, model: Path, options: Any) -> None:
    """A branch every so many steps of one greedy baseline."""
    length, n_baseline, every, new_tokens = (16, 32, 8, 4) if options.quick else (128, 256, 16, 16)
    settings = {"model": str(model), "keep": (), "device": "cpu", "batch_size": BATCH}
    ids = prompt_ids(1, length)
    baseline = CollectConfig(prompt=prompt_texts(ids), max_new_tokens=n_baseline, **{**settings, "keep": ("tokens",)})
    parent = Collection(baseline).start(lake, assume_yes=True).run_id
    config = CollectConfig(
        branch_from=parent, at=(f"every:{every}",), force="second", max_new_tokens=new_tokens,
        segment_items=n_baseline // every, **settings,
    )  # fmt: skip
    shared = Branching(lake, config, sharing=True)
    cases = {
        "beginning read once": timed(shared),
        "beginning read by every branch": timed(Branching(lake, config, sharing=False)),
        "regenerated from the prompt": regenerating(
            shared.collection.loaded.model, ids, range(0, n_baseline, every), new_tokens
        ),
    }
    for name in ("beginning read once", "beginning read by every branch"):
        cases[name]()  # what the first call prepares; the third case is long, and its model is warm by then
    found = interleave(
        cases, options.repeats or (1 if options.quick else 3), warm_up=False, quiet=Quiet(options.patience)
    )
    table = result.table(
        f"Prompt {length}, baseline {n_baseline}, a branch every {every}, {new_tokens} new tokens",
        "case", "seconds", "rounds", "beginning read once over it", "per round",
    )  # fmt: skip
    ours = found["beginning read once"]
    for name, sample in found.items():
        over = ("", "") if sample is ours else (round(speed_ratio(ours, sample), 2), ratio_range(ours, sample))
        table.add(name, round(sample.median, 3), sample.spread, *over)
    goals = {"regenerated from the prompt": 10.0, "beginning read by every branch": 2.0}
    for name, goal in goals.items():
        result.promise(f"branches with a shared beginning over: {name}", goal, speed_ratio(ours, found[name]))


def compare_edits(result: Result, lake: Lake, model: Path, scratch: Path, options: Any) -> None:
    """A collection in which every row is edited, over the same without."""
    length, new_tokens = (8, 4) if options.quick else (32, 48)
    direction = scratch / "direction.npy"
    width = 64 if options.quick else 768
    np.save(direction, np.random.default_rng(0).normal(size=width) / width)
    settings = {
        "model": str(model), "prompt": prompt_texts(prompt_ids(2 * BATCH, length)), "device": "cpu",
        "batch_size": BATCH, "max_new_tokens": new_tokens,
        "keep": ("tokens", "layers", "heads", "activations:resid_post"),
    }  # fmt: skip

    def case(edit: tuple[str, ...]) -> Callable[[], float]:
        collection = Collection(CollectConfig(edit=edit, **settings))

        def run() -> None:
            lake.remove(collection.start(lake, assume_yes=True).run_id, dry_run=False, now=True)

        return timed(run)

    cases = {"none": case(()), "add on every row": case((f"add:resid_post@1:direction={direction}:generated",))}
    found = interleave(cases, options.repeats or (1 if options.quick else 5), quiet=Quiet(options.patience))
    table = result.table("Edits", "edit", "seconds", "rounds")
    for name, sample in found.items():
        table.add(name, round(sample.median, 3), sample.spread)
    ratio = speed_ratio(found["add on every row"], found["none"])
    result.promise("collection with an edit on every row over none", 0.95, ratio)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    settings = {"batch": BATCH, "threads": torch.get_num_threads()}
    result = Result("branching", "Branches and edits, GPT-2 size, float32", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        model, lake = save_model(scratch / "model", quick=options.quick), Lake.create(scratch / "lake")
        compare_branches(result, lake, model, options)
        compare_edits(result, lake, model, scratch, options)
    result.notes.append("Model loading and planning are excluded; a collection ends with its last durable commit.")
    finish(result, options)


if __name__ == "__main__":
    main()
