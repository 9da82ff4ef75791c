"""Collection speed at GPT-2 size, over loops that compute the same logits and keep nothing."""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from benchmarks.gpt2_size import D_VOCAB, prompt_ids, prompt_texts, save_model
from benchmarks.measurement import Quiet, Result, Sample, arguments, interleave, ratio_range, speed_ratio, timed
from benchmarks.report import finish
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake

BATCH = 8
SAMPLES = 2
LOGIT_ROWS = 20
KEEPS = {
    "nothing (ids and texts)": (),
    "tokens": ("tokens",),
    "tokens, layers": ("tokens", "layers"),
    "tokens, layers, heads": ("tokens", "layers", "heads"),
    "tokens, layers, heads, resid_post of all layers": ("tokens", "layers", "heads", "activations:resid_post"),
}
EVERYTHING = list(KEEPS)[-1]
KEEPS_MORE = {
    "tokens, layers, heads, edges": ("tokens", "layers", "heads", "edges"),
    "mlp_post of all layers": ("activations:mlp_post",),
}
TITLES = {"equal": "prompts of one length", "mixed": "mixed output lengths", "keeps": "by what is kept"}
STEPS = ("prefill", "prompt_logits", "decode", "choose", "summaries", "rows", "write")


class Collecting:
    """Collects the same prompts again and again; the model is loaded once, each run is removed after its timing."""

    def __init__(
        self,
        lake: Path,
        model: Path,
        texts: tuple[str, ...],
        keep: tuple[str, ...],
        new_tokens: int,
        **settings: Any,
    ) -> None:
        self.lake = Lake.create(lake)
        config = CollectConfig(
            model=str(model), prompt=texts, keep=keep, max_new_tokens=new_tokens, batch_size=BATCH, device="cpu",
            **settings,
        )  # fmt: skip
        self.collection = Collection(config)
        self.n_tokens = 0
        self.n_bytes = 0
        self.lengths: list[int] = []
        self.operations: dict[str, float] = {}

    def __call__(self) -> float:
        """One committed run; returns its seconds."""
        start = time.perf_counter()
        collected = self.collection.start(self.lake, assume_yes=True)
        seconds = time.perf_counter() - start
        self.n_tokens, self.n_bytes = collected.n_tokens, collected.n_bytes
        found = self.lake.sql("select name, sum(total_ms) as ms from operations group by name")
        self.operations = {name: ms / 1000 for name, ms in found.rows()}
        lengths = self.lake.sql("select n_generated_tokens from sequences order by sequence_id")
        self.lengths = lengths["n_generated_tokens"].to_list()
        self.lake.remove(collected.run_id, dry_run=False, now=True)
        return seconds


def same_logits(model: Any, ids: torch.Tensor, new_tokens: int, *, whole: bool) -> None:
    """The cached loop: logits of all prompt positions (at once or in groups of rows) and of every new token."""
    cache = DynamicCache(config=model.config)
    states = model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    if whole:
        logits = model.lm_head(states)[:, -1]
    else:
        flat = states[:, :-1].flatten(0, 1)
        for start in range(0, len(flat), LOGIT_ROWS):
            model.lm_head(flat[start : start + LOGIT_ROWS])
        logits = model.lm_head(states[:, -1])
    for _ in range(new_tokens):
        token = logits.argmax(-1, keepdim=True)
        states = model.base_model(input_ids=token, past_key_values=cache, use_cache=True).last_hidden_state
        logits = model.lm_head(states[:, -1])


def spare_cores() -> int:
    """Cores that this process leaves to others."""
    return max(0, (os.cpu_count() or 1) - torch.get_num_threads())


def in_batches(ids: torch.Tensor, step: Callable[[torch.Tensor], object]) -> Callable[[], float]:
    """A timed case that takes the prompts batch by batch, without gradients."""

    def run() -> None:
        with torch.inference_mode():
            for batch in ids.split(BATCH):
                step(batch)

    return timed(run)


def generate(model: Any, batch: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Plain greedy `generate`."""
    return model.generate(
        batch, attention_mask=torch.ones_like(batch), max_new_tokens=new_tokens, do_sample=False, use_cache=True
    )


def compare_equal_lengths(result: Result, scratch: Path, model: Path, length: int, options: Any) -> None:
    """Prompts of one length, 48 new tokens each: the promise, and the ratio to `generate`."""
    n_batches, new_tokens = (1, 4) if options.quick else (options.batches, 48)
    ids = prompt_ids(n_batches * BATCH, length)
    ours = Collecting(scratch / f"lake{length}", model, prompt_texts(ids), KEEPS[EVERYTHING], new_tokens)
    hf = ours.collection.loaded.model
    found = interleave(
        {
            "collection": ours,
            "loop, prompt logits in groups": in_batches(ids, lambda b: same_logits(hf, b, new_tokens, whole=False)),
            "loop, prompt logits at once": in_batches(ids, lambda b: same_logits(hf, b, new_tokens, whole=True)),
            "generate": in_batches(ids, lambda b: generate(hf, b, new_tokens)),
        },
        options.repeats or (1 if options.quick else 7),
        quiet=Quiet(options.patience, spare_cores()),
    )
    table = result.table(f"Prompts of {length} tokens", "case", "tokens/s", "rounds", "collection over it", "per round")
    for name, sample in found.items():
        over = "" if name == "collection" else round(speed_ratio(found["collection"], sample), 3)
        per_round = "" if name == "collection" else ratio_range(found["collection"], sample)
        table.add(name, round(ours.n_tokens / sample.median, 1), sample.spread, over, per_round)
    loops = [name for name in found if name.startswith("loop")]
    fastest = min(loops, key=lambda name: found[name].median)
    ratio = speed_ratio(found["collection"], found[fastest])
    result.promise(f"collection over the fastest loop with the same logits, prompts of {length}", 0.9, ratio)
    _add_operations(result, ours, found["collection"], length)


def _add_operations(result: Result, ours: Collecting, sample: Sample, length: int) -> None:
    table = result.table(f"Where the time of one collection goes, prompts of {length}", "operation", "seconds", "share")
    for name in STEPS:
        seconds = ours.operations.get(name, 0.0)
        table.add(name, round(seconds, 3), f"{seconds / sample.seconds[-1]:.1%}")


def compare_mixed_lengths(result: Result, scratch: Path, options: Any) -> None:
    """Two samples of many prompts that end at very different steps: what waits takes the places of what has ended."""
    torch.manual_seed(1)
    end_ids = tuple(sorted(torch.randperm(D_VOCAB - 1)[: D_VOCAB // 24].tolist()))
    model = save_model(scratch / "mixed", quick=options.quick, end_ids=end_ids)
    n_prompts, length, new_tokens = (8, 8, 8) if options.quick else (64, 32, 48)
    ids = prompt_ids(n_prompts, length, seed=2)
    cases = {
        name: Collecting(
            scratch / f"lake_mixed{n}", model, prompt_texts(ids), KEEPS[EVERYTHING], new_tokens,
            samples=SAMPLES, temperature=1.0, segment_items=n,
        )
        for name, n in (("collection", None), ("collection, one segment", n_prompts))
    }  # fmt: skip
    theirs = Generating(next(iter(cases.values())).collection.loaded.model, ids, new_tokens, frozenset(end_ids))
    rounds = options.repeats or (1 if options.quick else 3)
    quiet = Quiet(options.patience, spare_cores())
    found = interleave({**cases, "generate": theirs}, rounds, warm_up=False, quiet=quiet)  # each takes a minute
    lengths = {name: case.lengths for name, case in cases.items()} | {"generate": theirs.lengths}
    title = f"Mixed output lengths, {n_prompts} prompts of {length} tokens, {SAMPLES} samples each"
    table = result.table(title, "case", "tokens/s", "rounds", "new tokens", "lengths (10, 50, 90 %)")
    work = {name: sum(ends) + SAMPLES * ids.numel() for name, ends in lengths.items()}
    for name, ends in lengths.items():
        tenths = ", ".join(str(int(value)) for value in np.percentile(ends, (10, 50, 90)))
        table.add(name, round(work[name] / found[name].median, 1), found[name].spread, sum(ends), tenths)
    for name in cases:
        ratio = speed_ratio(found[name], found["generate"], work=work[name] / work["generate"])
        result.promise(f"mixed output lengths: {name} over plain generate", 1.3, ratio)


class Generating:
    """Plain `generate` over the same prompts, as many samples of each, in batches of the same size."""

    def __init__(self, model: Any, ids: torch.Tensor, new_tokens: int, end_ids: frozenset[int]) -> None:
        self.model, self.ids, self.new_tokens, self.end_ids = model, ids, new_tokens, end_ids
        self.lengths: list[int] = []

    def __call__(self) -> float:
        """One pass over all prompts; returns its seconds."""
        rows: list[list[int]] = []
        start = time.perf_counter()
        with torch.inference_mode():
            for batch in self.ids.split(BATCH // SAMPLES):
                written = self.model.generate(
                    batch, attention_mask=torch.ones_like(batch), max_new_tokens=self.new_tokens, do_sample=True,
                    top_k=0, num_return_sequences=SAMPLES,
                )  # fmt: skip
                rows.extend(written[:, batch.shape[1] :].tolist())
        seconds = time.perf_counter() - start
        ends = [next((i + 1 for i, token in enumerate(row) if token in self.end_ids), len(row)) for row in rows]
        self.lengths = ends
        return seconds


def compare_keeps(result: Result, scratch: Path, model: Path, length: int, options: Any) -> None:
    """What each kind of row costs over bare generation of the same tokens."""
    n_batches, new_tokens = (1, 4) if options.quick else (options.batches, 48)
    ids = prompt_ids(n_batches * BATCH, length)
    texts = prompt_texts(ids)
    cases = {
        name: Collecting(scratch / f"keep{length}_{i}", model, texts, keep, new_tokens)
        for i, (name, keep) in enumerate({**KEEPS, **KEEPS_MORE}.items())
    }
    hf = cases[EVERYTHING].collection.loaded.model
    bare = {"generate, bare": in_batches(ids, lambda b: generate(hf, b, new_tokens))}
    found = interleave(
        {**bare, **cases}, options.repeats or (1 if options.quick else 5), quiet=Quiet(options.patience, spare_cores())
    )
    table = result.table(
        f"By what is kept, prompts of {length} tokens",
        "kept", "tokens/s", "rounds", "overhead over generate", "bytes per token",
    )  # fmt: skip
    n_tokens = cases[EVERYTHING].n_tokens
    generating = found["generate, bare"].median
    for name, sample in found.items():
        size = round(cases[name].n_bytes / n_tokens) if name in cases else ""
        overhead = f"{sample.median / generating - 1:+.0%}" if name in cases else ""
        table.add(name, round(n_tokens / sample.median, 1), sample.spread, overhead, size)


def main() -> None:
    """Measure and store."""
    parser = arguments(__doc__)
    parser.add_argument("--batches", type=int, default=2, help="batches of 8 prompts per run")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 256], help="prompt lengths in tokens")
    parser.add_argument("--only", choices=["equal", "mixed", "keeps"], help="only this comparison")
    parser.add_argument("--threads", type=int, help="threads of torch; all cores if not given")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = {
        "batch": BATCH,
        "batches per run": options.batches,
        "new tokens": 48,
        "threads": torch.get_num_threads(),
    }
    result = Result("collection", "Collection speed, GPT-2 size, float32", settings)
    lengths = [8] if options.quick else options.lengths
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        model = save_model(scratch / "model", quick=options.quick)
        for length in lengths:
            if options.only in (None, "equal"):
                compare_equal_lengths(result, scratch, model, length, options)
        if options.only in (None, "mixed"):
            compare_mixed_lengths(result, scratch, options)
        for length in lengths:
            if options.only in (None, "keeps"):
                compare_keeps(result, scratch, model, length, options)
    result.notes.append(
        "Model loading is excluded everywhere; a collection is timed from its start to its last durable commit. "
        "A segment holds one batch here, so every batch pays for a commit: the least favourable case."
    )
    if options.only:
        result.name += f"_{options.only}"
        result.title += f" ({TITLES[options.only]})"
    if options.threads:
        result.name += f"_{options.threads}_threads"
        result.title += f", {options.threads} of {os.cpu_count()} threads"
    finish(result, options)


if __name__ == "__main__":
    main()
