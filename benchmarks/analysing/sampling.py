"""Variance of pooled states over reading the vectors, and the lens over unembedding the same states."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpt2_size import prompt_ids, prompt_texts, save_model
from benchmarks.measurement import Quiet, Result, arguments, interleave, ratio_range, speed_ratio, timed
from benchmarks.report import finish
from tracelake.analysis.question import ask
from tracelake.analysis.sampling.variance import Variance
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.models.readout import Readout
from tracelake.collect.rereading.lens import BLOCK_BYTES, LensOptions, analyze_lens
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.lake.analyses import remove_analysis
from tracelake.lake.reading.batches import read_commits
from tracelake.lake.schema import TABLES

N_LAYERS, CHECKPOINTS, SAMPLES = 6, (16, 32, 64, 96), 8


def write_answers(lake: Lake, n_prompts: int, length: int, dim: int) -> None:
    """Sampled answers with random states of six layers."""
    rng = np.random.default_rng(0)
    with lake.start_run("sampled", {"kind": "generate", "model": {"name": "made", "n_layers": N_LAYERS}}) as run:
        for index in range(n_prompts):
            ids = np.arange(index * SAMPLES, (index + 1) * SAMPLES)
            place = {
                "sequence_id": np.repeat(ids, length),
                "position": np.tile(np.arange(1, length + 1, dtype=np.int32), SAMPLES),
            }
            with run.segment(index, (index, index + 1)) as segment:
                segment.append("sequences", {
                    "sequence_id": ids, "prompt_id": f"p{index}", "origin": "sampled", "temperature": 1.0,
                    "n_prompt_tokens": 1, "n_generated_tokens": length, "finish_reason": "length",
                })  # fmt: skip
                for layer in range(N_LAYERS):
                    segment.append_vectors(
                        "activations", columns=place | {"stack": "decoder"}, dtype="float32", layer=layer,
                        vectors=rng.normal(size=(SAMPLES * length, dim)).astype(np.float32), site="resid_post",
                    )  # fmt: skip
        run.finish()


def compare_variance(result: Result, lake: Lake, options: Any) -> None:
    """Six layers and four checkpoints, over reading those vectors once."""
    n_prompts, length, dim = (2, 100, 64) if options.quick else (16, 128, 768)
    write_answers(lake, n_prompts, length, dim)

    def read() -> None:
        snapshot = lake.snapshot("sampled")
        for layer in range(N_LAYERS):
            for _, vectors in read_commits(snapshot, TABLES["activations"], {"site": "resid_post", "layer": layer}):
                vectors.sum()

    cases = {
        "analyze variance": timed(
            lambda: ask(lake, "sampled", Variance(stride=1, checkpoints=CHECKPOINTS), force=True)
        ),
        "vectors read once and summed": timed(read),
    }
    _compare(result, f"{n_prompts} problems x {SAMPLES} samples x {length} tokens x {dim}", cases, options)
    _promise(result, "variance, 6 layers x 4 checkpoints, time over reading the vectors once", cases, options)


def compare_lens(result: Result, lake: Lake, folder: Path, options: Any) -> None:
    """Every layer of every token, over the unembedding of the same states alone, in the same pieces."""
    n_prompts, length = (2, 8) if options.quick else (8, 32)
    settings = {"model": str(folder), "prompt": prompt_texts(prompt_ids(n_prompts, length)), "device": "cpu"}
    config = CollectConfig(**settings, max_new_tokens=0, keep=("tokens", "activations:resid_post"))
    run = Collection(config).start(lake, assume_yes=True).run_id
    loaded = load_model(str(folder), device="cpu")
    readout = Readout.of(loaded)
    states = [
        torch.from_numpy(np.concatenate([np.array(v) for _, v in read_commits(
            lake.snapshot(run), TABLES["activations"], {"site": "resid_post", "layer": layer}
        )]))
        for layer in range(loaded.n_layers)
    ]  # fmt: skip
    block = max(1, BLOCK_BYTES // (4 * loaded.d_vocab))

    def unembed() -> None:
        with torch.inference_mode():
            for one in states:
                for start in range(0, len(one), block):
                    readout.logits(one[start : start + block])

    def lens() -> None:
        done = analyze_lens(lake, run, LensOptions(), lambda: loaded, load_readout=lambda: readout)
        remove_analysis(lake, done.analysis_id, dry_run=False, now=True)

    cases = {"analyze lens": timed(lens), "norm and unembedding of the states": timed(unembed)}
    _compare(
        result, f"{n_prompts} x {length} tokens, {loaded.n_layers} layers, {loaded.d_vocab:,} words", cases, options
    )
    _promise(result, "lens of every layer, time over unembedding the same states alone", cases, options)


def _compare(result: Result, title: str, cases: dict[str, Any], options: Any) -> None:
    found = interleave(cases, options.repeats or (1 if options.quick else 5), quiet=Quiet(options.patience))
    table = result.table(title, "case", "seconds", "rounds", "ratio by round")
    ours, theirs = found.values()
    for name, sample in found.items():
        table.add(name, round(sample.median, 3), sample.spread, ratio_range(theirs, ours) if sample is ours else "")
    cases.clear()
    cases.update(found)


def _promise(result: Result, what: str, found: dict[str, Any], options: Any) -> None:
    """A ratio of times, the smaller the better."""
    ours, theirs = found.values()
    result.promise(what, 1.5, speed_ratio(theirs, ours), at_most=True)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    result = Result("sampling", "Variance and lens", {"threads": torch.get_num_threads()})
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        compare_variance(result, Lake.create(scratch / "made"), options)
        model = save_model(scratch / "model", quick=options.quick)
        compare_lens(result, Lake.create(scratch / "lake"), model, options)
    result.notes.append("Both end with their last durable commit; the model is loaded before.")
    finish(result, options)


if __name__ == "__main__":
    main()
