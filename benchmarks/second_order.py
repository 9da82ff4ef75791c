"""Second-order effects of all neurons, from one pass, over the form with a tensor of tokens x neurons x width."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from gpt2_size import D_VOCAB, prompt_ids, save_model
from measurement import Quiet, Result, arguments, interleave, ratio_range, timed
from report import finish

from tracelake.collect.decoding.reading import Reading
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.models.loading.load import load_model
from tracelake.collect.rereading.frozen_pass import FrozenPass, read_frozen
from tracelake.collect.rereading.head_paths import HeadPaths
from tracelake.collect.rereading.neurons import NeuronSums
from tracelake.collect.rereading.scorer import Scorer, SecondOrderOptions
from tracelake.collect.stored_sequences import StoredBatch, computing

BATCH, LENGTH, FEW = 8, 64, 16


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
        list(self.by_head.scores(self.observed()))

    def one_layer(self) -> None:
        frozen = self.observed()
        factor = torch.ones(BATCH, 1, dtype=torch.float64)
        self.plain.layer_scores(frozen, self.layer, frozen.mlp_post[self.layer], factor)

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
        "bare pass": timed(bench.bare),
        "observed pass": timed(bench.observed),
        "all neurons": timed(bench.scores),
        "all neurons, by head": timed(bench.heads),
        f"layer {bench.layer} alone": timed(bench.one_layer),
        f"tensor form, {FEW} neurons of every layer": timed(bench.tensors),
        f"tensor form, {FEW} neurons of layer {bench.layer}": timed(bench.tensor_layer),
        "ranking pass": timed(bench.ranking),
    }
    samples = interleave(cases, options.repeats or (1 if options.quick else 3), quiet=Quiet(options.patience))
    table = result.table(f"Batch of {BATCH} x {LENGTH} tokens", "case", "seconds", "rounds")
    for name, sample in samples.items():
        table.add(name, round(sample.median, 3), sample.spread)
    bare, observed, scores, heads, one, tensors, tensor, ranking = (samples[name] for name in cases)
    n_neurons = bench.plain.direct[0].numel()
    share = n_neurons / FEW
    everything = observed.median + (tensors.median - observed.median) * share
    single = observed.median + (tensor.median - observed.median) * share
    n_all = n_neurons * bench.loaded.n_layers
    result.promise(f"All {n_all:,} neurons, pass included, over the tensor form", 500, everything / scores.median)
    result.promise("One layer, both with the pass", 50, single / one.median)
    extra = (scores.median - observed.median) / observed.median
    result.promise("Scores over the observed pass alone", 0.25, extra, unit="of its time", at_most=True)
    extra = (heads.median - observed.median) / observed.median
    result.promise("The same by head", 0.3, extra, unit="of its time", at_most=True)
    result.promise(
        "Ranking all neurons over the bare pass", 1.2, ranking.median / bare.median, unit="x its time", at_most=True
    )
    result.notes.append(
        f"The tensor form is timed on {FEW} neurons a layer and scaled to {n_neurons:,}: whole, its tensors have "
        f"{BATCH * LENGTH * n_neurons * bench.loaded.d_model * 4 / 1e9:.1f} GB each. Bare over observed, by round: "
        f"{ratio_range(observed, bare)}."
    )


def main() -> None:
    """Measure and store."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    settings = {"model": "GPT-2 size, random weights", "threads": 1, "batch": BATCH, "tokens": LENGTH}
    result = Result("second_order", "Second-order effects of neurons", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        measure(result, Bench(Path(folder), options.quick), options)
    finish(result, options)


if __name__ == "__main__":
    main()
