"""A GPU (or, with --small, this processor): the same numbers as a plain pass, and what seeing costs at speed.

One call does everything and needs torch, transformers, pyarrow, blake3 and this package: `make gpu`. The result file is
named after the card.
"""

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.collecting.gpu_faithful import compare, resumed_like_uninterrupted
from benchmarks.gpt2_size import prompt_ids, prompt_texts, save_words
from benchmarks.measurement import Result, Sample, arguments, interleave, timed
from benchmarks.report import finish
from tracelake.analysis.sae.training.options import TrainOptions
from tracelake.analysis.sae.training.trainer import start_training
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake

KEEPS = {
    "tokens": ("tokens",),
    "tokens, layers": ("tokens", "layers"),
    "tokens, layers, heads": ("tokens", "layers", "heads"),
    "tokens, layers, heads, resid_post of all layers": ("tokens", "layers", "heads", "activations:resid_post"),
}
TOLERANCE = 1e-4
BEFORE = ("wall", "load", "check", "plan")
"""Operations that are none of the run's own parts."""
ROUNDINGS = 2.0
"""In half precision states may differ from a plain pass by this many times what that pass differs from float32."""


def one_billion(*, small: bool) -> LlamaConfig:
    """The shape of Llama 3.2 1B, or two narrow layers of it."""
    if small:
        return LlamaConfig(
            hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
            intermediate_size=128, vocab_size=1_000, max_position_embeddings=512, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    return LlamaConfig(
        hidden_size=2_048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
        intermediate_size=8_192, vocab_size=128_256, max_position_embeddings=4_096, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip


def save_random(config: LlamaConfig, folder: Path, device: str) -> Path:
    """Save a random model of this shape in bfloat16, made on the device, and its tokenizer."""
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    save_words(folder, config.vocab_size)
    return folder


class Collecting:
    """Collects the same prompts again and again; each run is removed after its timing."""

    def __init__(self, lake: Lake, config: CollectConfig) -> None:
        self.lake = lake
        self.collection = Collection(config)
        self.n_tokens = self.n_bytes = 0
        self.operations: dict[str, float] = {}

    def __call__(self) -> float:
        """One committed run; returns its seconds."""
        start = time.perf_counter()
        run = self.collection.start(self.lake, assume_yes=True)
        seconds = time.perf_counter() - start
        self.n_tokens, self.n_bytes = run.n_tokens, run.n_bytes
        timed_rows = self.lake.sql("select name, sum(total_ms) / 1000 from operations group by name").rows()
        self.operations = dict(timed_rows)
        self.lake.remove(run.run_id, dry_run=False, now=True)
        return seconds


def faithful(result: Result, device: str, architectures: list[str]) -> None:
    """Stored numbers against plain passes, in float32 and bfloat16."""
    table = result.table(
        "Stored numbers against one plain pass on the same device (largest differences)",
        *("model", "dtype", "tokens", "logprob", "entropy (bits)", "states (relative)", "sum of a block (relative)"),
        *("head entropy (bits)", "heads with too few keys", "the plain pass against float32 (relative)"),
    )
    worst = {"float32": 0.0, "bfloat16": 0.0}
    for name, joined in [(name, False) for name in architectures] + [(architectures[0], True)]:
        for dtype in worst:
            found = compare(name, dtype, device, joined=joined)
            shown = f"{name}, joined batches" if joined else name
            table.add(
                shown, dtype, found.tokens, found.logprob, found.entropy_bits, found.states, found.identity,
                found.head_entropy_bits, found.keys, found.rounding,
            )  # fmt: skip
            scale = 1.0 if dtype == "float32" else max(found.rounding, 1e-6)
            worst[dtype] = max(worst[dtype], found.states / scale, float("inf") if found.keys else 0.0)
    result.promise("states against a plain pass, float32", TOLERANCE, worst["float32"], unit="relative", at_most=True)
    what = "states against a plain pass, bfloat16, over that pass against float32"
    result.promise(what, ROUNDINGS, worst["bfloat16"], at_most=True)
    tokens, changed, difference = resumed_like_uninterrupted(device)
    resumed = result.table("A stopped and resumed run beside an uninterrupted one", "tokens", "other ids", "logprob")
    resumed.add(tokens, changed, difference)
    result.promise("other tokens in a resumed run", 0, changed, unit="tokens", at_most=True)


def speeds(result: Result, scratch: Path, device: str, options: Any) -> None:
    """Tokens per second by what is kept, over the bare model's own `generate`."""
    config = one_billion(small=options.small)
    model = save_random(config, scratch / "model", device)
    n_prompt, n_new = (8, 4) if options.small else (128, 64)
    for batch in (2, 4) if options.small else (128, 32):
        ids = prompt_ids(2 * batch, n_prompt, d_vocab=config.vocab_size)
        texts = prompt_texts(ids, config.vocab_size)
        cases: dict[str, Callable[[], float]] = {}
        peaks: dict[str, float] = {}
        for number, (name, keep) in enumerate(KEEPS.items() if batch <= 32 else list(KEEPS.items())[::3]):
            settings = CollectConfig(
                model=str(model), prompt=texts, keep=keep, max_new_tokens=n_new, batch_size=batch, device=device,
                dtype="bfloat16",
            )  # fmt: skip
            print(f"batch {batch}: {name}", flush=True)
            collecting = Collecting(Lake.create(scratch / f"lake{batch}_{number}"), settings)
            cases[name] = with_peak(collecting, peaks, name, device)
            result.notes.append(operations_of(collecting, name, batch, cases[name]()))
            last = collecting
        bare = last.collection.loaded.model

        def generate(ids: torch.Tensor = ids, batch: int = batch, bare: Any = bare) -> None:
            with torch.inference_mode():
                for part in ids.to(device).split(batch):
                    bare.generate(
                        part, attention_mask=torch.ones_like(part), max_new_tokens=n_new, do_sample=False,
                        eos_token_id=None, pad_token_id=0,
                    )  # fmt: skip
            if device == "cuda":
                torch.cuda.synchronize()

        generate()
        cases = {"generate, bare": with_peak(timed(generate), peaks, "generate, bare", device), **cases}
        samples = interleave(cases, options.repeats or (1 if options.small else 2), warm_up=False)
        show(result, batch, samples, peaks, 2 * batch * (n_prompt + n_new), 2 * batch * n_new)
        finish(result, options)


def autoencoders(result: Result, scratch: Path, device: str, options: Any) -> None:
    """Training from stored vectors of random features, alone and four at once."""
    n_rows, width = (4_096, 64) if options.small else (262_144, 2_048)
    lake = vectors_of_features(scratch / "lake_sae", n_rows, width, device)
    table = result.table(
        f"Training autoencoders on {n_rows:,} stored bfloat16 vectors of width {width:,}, batch 4,096",
        *("architecture", "features", "autoencoders at once", "vectors/s", "seconds", "FVU"),
    )
    for arch in ("topk", "batchtopk", "jumprelu"):
        for seeds in ((0,), (0, 1, 2, 3)) if arch == "topk" else ((0,),):
            settings = TrainOptions(
                archs=(arch,), ks=(32,), widths=("8x",), seeds=seeds, batch_size=1_024 if options.small else 4_096,
                device=device, exclude="none", commits=2,
            )  # fmt: skip
            trained = start_training(lake, ["features"], settings)
            rows = lake.sql("select max(tokens_per_s) as rate, min(fvu) as fvu from sae_training where run_id = ?",
                            [trained.run_id]).row(0)  # fmt: skip
            table.add(arch, 8 * width, len(seeds), round(rows[0]), round(trained.seconds, 2), round(rows[1], 4))


def vectors_of_features(path: Path, n_rows: int, width: int, device: str) -> Lake:
    """A run of `n_rows` sparse sums of random directions, as a harvest would store them."""
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4 * width, width, device=device), dim=-1)
    lake = Lake.create(path)
    model = {"name": "features", "n_layers": 1, "weights_sha256": "0" * 64, "special_ids": []}
    per_sequence = 1_024
    with lake.start_run("features", {"kind": "read", "model": model}) as run:
        with run.segment(0, (0, n_rows // per_sequence)) as segment:
            for sequence in range(n_rows // per_sequence):
                active = torch.randint(0, 4 * width, (per_sequence, 16), device=device)
                strengths = torch.rand(per_sequence, 16, 1, device=device) + 0.5
                rows = (directions[active] * strengths).sum(1).to(torch.bfloat16).cpu().view(torch.uint16).numpy()
                is_validation = sequence % 16 == 0
                key = {
                    "sequence_id": np.full(per_sequence, sequence),
                    "position": np.arange(per_sequence, dtype=np.int32),
                }
                split = "validation" if is_validation else "train"
                segment.append("sequences", {"sequence_id": np.array([sequence]), "split": [split], "prompt": ""})
                segment.append_vectors(
                    "activations", layer=0, site="resid_post", columns={**key, "stack": "decoder"}, vectors=rows,
                    dtype="bfloat16",
                )  # fmt: skip
        run.finish()
    return lake


def with_peak(case: Callable[[], float], peaks: dict[str, float], name: str, device: str) -> Callable[[], float]:
    """The case, and in `peaks` the most memory of the device (or of this process) it had, in GB."""

    def run() -> float:
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = case()
        if device == "cuda":
            peaks[name] = torch.cuda.max_memory_allocated() / 1e9
        else:
            peaks[name] = psutil.Process().memory_info().rss / 1e9
        return seconds

    return run


def operations_of(collecting: Collecting, name: str, batch: int, seconds: float) -> str:
    """Where the time of the first run went."""
    inside = {key: value for key, value in collecting.operations.items() if key not in BEFORE}
    parts = sorted(inside.items(), key=lambda item: -item[1])[:8]
    shares = ", ".join(f"{operation} {spent / seconds:.0%}" for operation, spent in parts)
    seal = collecting.operations.get("seal", 0.0)
    return (
        f"Batch {batch}, {name}, first run of {seconds:.3g} s: {shares} (operations may be parts of others; write is "
        f"what was waited for the store, seal what it did beside, both without the last of two segments). "
        f"{collecting.n_bytes / 1e6:,.0f} MB, half of them sealed in {seal:.2f} s."
    )


def show(
    result: Result, batch: int, samples: dict[str, Sample], peaks: dict[str, float], n_tokens: int, n_new: int
) -> None:
    """The table of one batch size."""
    table = result.table(
        f"Random Llama of 1B parameters, bfloat16, batch {batch}",
        *("kept", "tokens/s", "of them generated", "rounds", "of the bare speed", "peak memory (GB)"),
    )
    bare = samples["generate, bare"].median
    for name, sample in samples.items():
        rates = round(n_tokens / sample.median, 1), round(n_new / sample.median, 1)
        table.add(name, *rates, sample.spread, round(bare / sample.median, 3), round(peaks[name], 2))


def card(device: str) -> str:
    """The name of the device, for people."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def main() -> None:
    """Compare, measure and store."""
    parser = arguments(__doc__)
    parser.add_argument("--small", action="store_true", help="little models, one round: to see that it runs anywhere")
    options = parser.parse_args()
    options.quick = options.small
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.small:
        parser.error("there is no GPU here; --small tries everything on the processor")
    settings = {"card": card(device), "new tokens": 4 if options.small else 64}
    name = f"gpu_{re.sub('[^a-z0-9]+', '_', card(device).lower())}"
    result = Result(name, f"On a GPU: {card(device)}", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        faithful(result, device, ["Llama"] if options.small else ["Llama", "GPT-2", "Gemma-2"])
        finish(result, options)  # what is known is stored at once: the card may be had for minutes only
        autoencoders(result, Path(folder), device, options)
        finish(result, options)
        speeds(result, Path(folder), device, options)


if __name__ == "__main__":
    main()
