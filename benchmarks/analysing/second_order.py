"""Second-order effects of all neurons, from one pass, over the form with a tensor of tokens x neurons x width."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks.analysing.second_order_memory import LENGTH as SHORT
from benchmarks.analysing.second_order_memory import peak_mb
from benchmarks.gpt2_size import D_VOCAB, prompt_ids, save_model
from benchmarks.measurement import Quiet, Result, Sample, arguments, interleave, ratio_range, timed
from benchmarks.report import finish
from tracelake.collect.decoding.reading.reading import Reading
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.neurons.outputs import NEURONS_AT_ONCE, HeadOutputs
from tracelake.collect.neurons.vectors import effect_vectors
from tracelake.collect.rereading.neurons import NeuronSums
from tracelake.collect.rereading.second_order.frozen_pass import FrozenPass, read_frozen
from tracelake.collect.rereading.second_order.head_paths import HeadPaths
from tracelake.collect.rereading.second_order.head_sums import HeadSums
from tracelake.collect.rereading.second_order.scorer import Scorer, SecondOrderOptions
from tracelake.collect.stored_sequences import StoredBatch, computing

BATCH, LENGTH, FEW = 8, 64, 16
FEW_PROMPTS, MANY_PROMPTS = 64, 4_096


def tensor_form(model: Any, frozen: FrozenPass, neurons: torch.Tensor, layer: int, chosen: slice) -> torch.Tensor:
    """The effect vectors `[row neuron d]` of some neurons of one layer, as the formula is written (GPT-2's weights)."""
    blocks, heads = model.transformer.h, model.config.n_head
    writes = neurons[:, :, chosen].unsqueeze(-1) * blocks[layer].mlp.c_proj.weight[chosen]
    total = torch.zeros_like(writes[:, 0])
    for k in range(layer + 1, len(blocks)):
        attention, norm = blocks[k].attn, blocks[k].ln_1
        d = attention.c_proj.weight.shape[1]
        normed = norm.weight * (writes - writes.mean(-1, keepdim=True)) / frozen.before[k][:, :, None, None]
        values = normed @ attention.c_attn.weight[:, 2 * d :]
        attended = torch.einsum("bhi,binhe->bnhe", frozen.weights[k], values.unflatten(-1, (heads, -1)))
        total += attended.flatten(-2) @ attention.c_proj.weight
    final = model.transformer.ln_f.weight * (total - total.mean(-1, keepdim=True))
    return final / frozen.end[:, None, None]


class Bench:
    """A model, one batch, and a direction."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.loaded = load_model(str(save_model(folder, quick=quick)), device="cpu")
        ids = prompt_ids(BATCH, LENGTH, d_vocab=D_VOCAB)
        self.sequences = [Sequence(i, i, 0, row.numpy()) for i, row in enumerate(ids)]
        direction = torch.randn(self.loaded.d_model, generator=torch.Generator().manual_seed(1)).double()
        self.paths = HeadPaths(self.loaded, direction)
        self.plain = Scorer(self.paths, SecondOrderOptions())
        self.by_head = Scorer(self.paths, SecondOrderOptions(by_head=True))
        self.layer = self.loaded.n_layers * 2 // 3

    def batch(self) -> StoredBatch:
        return StoredBatch(self.loaded, self.sequences, Reading())

    def bare(self) -> None:
        with computing():
            self.batch().read()

    def observed(self) -> FrozenPass:
        return read_frozen(self.paths, self.batch())

    def scores(self) -> None:
        list(self.plain.scores(self.observed()))

    def heads(self) -> None:
        sums = HeadSums(self.by_head.onto)
        for scores in self.by_head.scores(self.observed()):
            if scores.heads is not None:
                sums.add(scores.layer, scores.heads)

    def one_layer(self) -> None:
        frozen = self.observed()
        factor = torch.ones(BATCH, 1, dtype=torch.float64)
        self.plain.layer_scores(frozen, self.layer, frozen.mlp_post[self.layer], factor)

    def vectors(self) -> None:
        """The effect vectors of all neurons of one layer, what the heads make of a state computed for them."""
        frozen, outputs = self.observed(), HeadOutputs(self.paths)
        q = torch.bmm(frozen.paths(self.layer), frozen.mlp_post[self.layer]).transpose(1, 2).double().numpy()
        for start in range(0, q.shape[1], NEURONS_AT_ONCE):
            some = list(range(start, min(start + NEURONS_AT_ONCE, q.shape[1])))
            effect_vectors(q[:, some], outputs.of(self.layer, some).double().numpy()).astype(np.float32)

    def tensor(self, layer: int) -> None:
        """Sixteen neurons of one layer."""
        with torch.inference_mode():
            tensor_form(self.loaded.model, self._frozen, self._frozen.mlp_post[layer], layer, slice(0, FEW))

    def tensors(self) -> None:
        """Sixteen neurons of every layer that has a later one."""
        self._frozen = self.observed()
        for layer in range(self.loaded.n_layers - 1):
            self.tensor(layer)

    def tensor_layer(self) -> None:
        self._frozen = self.observed()
        self.tensor(self.layer)

    def ranking(self) -> None:
        sums = NeuronSums(self.loaded)
        with computing(), sums.attached():
            self.batch().read()


def measure(result: Result, bench: Bench, options: Any) -> None:
    """Time all forms in turns."""
    cases = {
        "bare pass": bench.bare,
        "observed pass": bench.observed,
        "all neurons": bench.scores,
        "all neurons, by head": bench.heads,
        f"layer {bench.layer} alone": bench.one_layer,
        f"all vectors of layer {bench.layer}": bench.vectors,
        f"tensor form, {FEW} neurons of every layer": bench.tensors,
        f"tensor form, {FEW} neurons of layer {bench.layer}": bench.tensor_layer,
        "ranking pass": bench.ranking,
    }
    repeats, quiet = options.repeats or (1 if options.quick else 3), Quiet(options.patience)
    samples = interleave({name: timed(case) for name, case in cases.items()}, repeats, quiet=quiet)
    table = result.table(f"Batch of {BATCH} x {LENGTH} tokens", "case", "seconds", "rounds")
    for name, sample in samples.items():
        table.add(name, round(sample.median, 3), sample.spread)
    promise(result, bench, list(samples.values()))


def promise(result: Result, bench: Bench, samples: list[Sample]) -> None:
    """The goals of times."""
    bare, observed, scores, heads, one, vectors, tensors, tensor, ranking = samples
    n_neurons = bench.plain.direct[0].numel()
    everything, single = (
        observed.median + (few.median - observed.median) * n_neurons / FEW for few in (tensors, tensor)
    )
    n_all = n_neurons * bench.loaded.n_layers
    result.promise(f"All {n_all:,} neurons, pass included, over the tensor form", 500, everything / scores.median)
    result.promise("One layer, both with the pass", 50, single / one.median)
    result.promise(f"All {n_neurons:,} vectors of a layer, both with the pass", 20, single / vectors.median)
    for what, goal, sample in (("Scores over the observed pass", 0.25, scores), ("The same by head", 0.3, heads)):
        extra = (sample.median - observed.median) / observed.median
        result.promise(what, goal, extra, unit="of its time", at_most=True)
    ratio = ranking.median / bare.median
    result.promise("Ranking all neurons over the bare pass", 1.2, ratio, unit="x its time", at_most=True)
    result.notes.append(
        f"The tensor form is timed on {FEW} neurons a layer and scaled to {n_neurons:,}: whole, its tensors have "
        f"{BATCH * LENGTH * n_neurons * bench.loaded.d_model * 4 / 1e9:.1f} GB each. The vectors' time holds what the "
        "heads make of a state, which is computed once for all batches. Observed over bare, by round: "
        f"{ratio_range(bare, observed)}."
    )


def memory(result: Result, folder: Path, options: Any) -> None:
    """The goal of memory."""
    sizes = (FEW_PROMPTS, 2 * FEW_PROMPTS) if options.quick else (FEW_PROMPTS, MANY_PROMPTS)
    peaks = [peak_mb(folder, n, quick=options.quick) for n in sizes]
    table = result.table(f"Whole command over prompts of {SHORT} tokens", "prompts", "peak RSS MB")
    for n, peak in zip(sizes, peaks, strict=True):
        table.add(n, round(peak, 1))
    result.promise(f"Peak memory of {sizes[1]:,} over {sizes[0]:,} prompts", 1.1, peaks[1] / peaks[0], at_most=True)


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    settings = {"model": "GPT-2 size, random weights", "threads": 1, "batch": BATCH, "tokens": LENGTH}
    result = Result("second_order", "Second-order effects of neurons", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        with threadpool_limits(1):
            measure(result, Bench(Path(folder), options.quick), options)
        memory(result, Path(folder) / "memory", options)
    finish(result, options)


if __name__ == "__main__":
    main()
