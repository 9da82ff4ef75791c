"""Training of autoencoders over SAELens and dictionary_learning at equal FVU; loader, waiting, harvest, look-ups.

The other libraries run in the environment that `make exchange` installs (or LAKE_TEST_EXCHANGE); without it only the
rest is measured. One thread; processor seconds count, so that other processes of a busy machine change little.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.autoencoders.sae_lookup import measure_lookup
from benchmarks.autoencoders.sae_reading import measure_reading
from benchmarks.measurement import Result, Sample, arguments, interleave, ratio_range, speed_ratio
from benchmarks.report import finish
from tracelake.analysis.sae.training.learner import Learner
from tracelake.analysis.sae.training.options import TrainOptions, specs_of
from tracelake.analysis.sae.training.training_rows import DIRECTION_ROWS, Scaling

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("LAKE_TEST_EXCHANGE", HERE.parents[1] / "build" / "exchange"))
SELECT_STEPS = 3
"""Steps of either kind that `--select bfloat16` is timed with, after one to warm up."""
EQUAL = 1.03
"""Largest FVU of ours over theirs that counts as equal."""
CASES = (
    {"name": "TopK 128 to 1024", "arch": "topk", "d": 128, "width": 1024, "k": 32, "batch": 4096, "steps": 280,
     "rounds": 4, "goals": {"saelens": 2.5, "dictionary_learning": 1.8}},
    {"name": "BatchTopK 128 to 1024", "arch": "batchtopk", "d": 128, "width": 1024, "k": 32, "batch": 4096,
     "steps": 240, "rounds": 4, "goals": {"saelens": 4.0}},
    {"name": "TopK 768 to 6144", "arch": "topk", "d": 768, "width": 6144, "k": 32, "batch": 2048, "steps": 36,
     "rounds": 3, "goals": {"saelens": 4.0, "dictionary_learning": 3.5}},
)  # fmt: skip


class Peers:
    """The other libraries' process."""

    def __init__(self) -> None:
        python = ENVIRONMENTS / "saelens" / "bin" / "python"
        quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self._process = subprocess.Popen([python, HERE / "sae_peers.py"], **quiet)

    def ask(self, **asked: Any) -> dict[str, Any]:
        """One request and its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def planted(d: int, n: int, seed: int) -> np.ndarray:
    """Rows of mean length sqrt(d): sums of 16 of 2 d directions, common ones more often, with a little noise."""
    dictionary = np.random.default_rng(0).standard_normal((2 * d, d), dtype=np.float32)
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    rows = 0.02 * rng.standard_normal((n, d), dtype=np.float32)
    chosen = (2 * d * rng.random((n, 16)) ** 2).astype(np.int64)
    for place in range(16):
        rows += dictionary[chosen[:, place]] * rng.uniform(0.5, 1.5, (n, 1)).astype(np.float32)
    rows += 0.2
    return rows * np.float32(d**0.5 / np.linalg.norm(rows, axis=1).mean())


class Ours:
    """A learner on the same rows in the same order."""

    def __init__(self, about: dict[str, Any], rows: torch.Tensor) -> None:
        options = TrainOptions(
            archs=(about["arch"],), widths=(str(about["width"]),), ks=(about["k"],), batch_size=about["batch"],
            lr=about["lr"], dead_after=10_000_000, select=about.get("select"),
        )  # fmt: skip
        [spec] = specs_of(options, [0], about["d"])
        centre = rows[:100_000].double().mean(0)
        directions = torch.nn.functional.normalize(rows[:DIRECTION_ROWS] - centre.float(), dim=1)
        scaling = Scaling(1.0, 1.0, centre, directions)
        self.learner = Learner(spec, "ours", options, scaling, about["steps"])
        self.rows, self.batch, self.number = rows, about["batch"], 0

    def train(self, n: int) -> float:
        """Processor seconds of so many further steps."""
        began = time.process_time()
        for _ in range(n):
            start = self.number * self.batch % (len(self.rows) - self.batch + 1)
            x = self.rows[start : start + self.batch]
            self.learner.step(self.number, x, x)
            self.number += 1
        return time.process_time() - began

    def fvu(self, held_out: torch.Tensor) -> float:
        """Of the folded autoencoder, its threshold from the rows it was trained on."""
        sae = self.learner.sae(self.learner.parameters, lambda: [(self.rows[:16_384], self.rows[:16_384])])
        error = (sae.reconstruct(held_out) - held_out).double().square().sum()
        return float(error / (held_out - held_out.mean(0)).double().square().sum())


def compare(result: Result, peers: Peers, about: dict[str, Any], folder: Path, options: Any) -> None:
    """One size and architecture: steps in turns, then FVU on held-out rows."""
    about = about | {"lr": 2e-4 * (2**14 / about["width"]) ** 0.5}
    if options.quick:
        about |= {"steps": 4, "rounds": 2, "batch": 256}
    n_rows = 100_000 if about["d"] < 512 else 16_000
    names = {"train": folder / f"{about['d']}.npy", "held_out": folder / f"{about['d']}_held_out.npy"}
    for seed, name in enumerate(names):
        if not names[name].exists():
            np.save(names[name], planted(about["d"], 4_000 if options.quick or seed else n_rows, seed + 1))
    rows, held_out = (torch.from_numpy(np.load(path)) for path in names.values())
    rounds = options.repeats or about["rounds"]
    each = about["steps"] // rounds
    about |= {"steps": each * rounds}
    ours = {"tracelake": Ours(about, rows)}
    cases: dict[str, Callable[[], float]] = {name: lambda one=one: one.train(each) for name, one in ours.items()}
    for library in about["goals"]:
        peers.ask(make=library, library=library, rows=str(names["train"]), **about)
        cases[library] = lambda library=library: peers.ask(step=library, n=each)["cpu"]
    samples = interleave(cases, rounds, warm_up=False)
    select(result, about, rows)
    found = {name: one.fvu(held_out) for name, one in ours.items()}
    found |= {one: peers.ask(fvu=one, rows=str(names["held_out"]))["fvu"] for one in about["goals"]}
    table = result.table(f"{about['name']}, {about['steps']} steps of {about['batch']}", "who", "tokens per second",
                         "FVU", "a round")  # fmt: skip
    for name, sample in samples.items():
        table.add(name, round(each * about["batch"] / sample.median), round(found[name], 4), sample.spread)
        print(about["name"], *table.rows[-1], flush=True)
    _promise(result, about, samples, found)


def select(result: Result, about: dict[str, Any], rows: torch.Tensor) -> None:
    """Steps that look for the k largest in bfloat16 over those that do not: few, as some processors take seconds."""
    one, other = Ours(about, rows), Ours(about | {"select": "bfloat16"}, rows)
    samples = interleave({"float32": lambda: one.train(1), "bfloat16": lambda: other.train(1)}, SELECT_STEPS)
    ratio = speed_ratio(samples["bfloat16"], samples["float32"])
    result.notes.append(f"{about['name']}: `--select bfloat16` makes {ratio:.2f} x as many steps a second as float32.")


def _promise(result: Result, about: dict[str, Any], samples: dict[str, Sample], found: dict[str, float]) -> None:
    for library, goal in about["goals"].items():
        ratio = speed_ratio(samples["tracelake"], samples[library])
        result.promise(f"SAE training, {about['name']}, over {library}", goal, ratio)
        worse = found["tracelake"] / found[library]
        result.promise(f"the same: FVU over that of {library}", EQUAL, worse, at_most=True)
        result.notes.append(
            f"{about['name']} over {library}, by round: {ratio_range(samples['tracelake'], samples[library])}."
        )


def main() -> None:
    """Measure and store."""
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=("training", "reading", "lookup"), help="one part; its result has its name")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"threads": 1, "seconds": "of the processor", "rows": "planted, of mean length sqrt(d)"}
    name = "sae" if options.only is None else f"sae_{options.only}"
    result = Result(name, "Sparse autoencoders", settings)
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        wanted = options.only in (None, "training")
        if wanted and (ENVIRONMENTS / "saelens").is_dir():
            peers = Peers()
            for about in CASES[:1] if options.quick else CASES:
                compare(result, peers, dict(about), folder, options)
            peers.close()
        elif wanted:
            result.notes.append("The other libraries are not installed (`make exchange`): nothing is compared.")
        if options.only in (None, "reading"):
            measure_reading(result, folder, options)
        if options.only in (None, "lookup"):
            measure_lookup(result, folder, options)
    finish(result, options)


if __name__ == "__main__":
    main()
