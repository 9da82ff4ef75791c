"""SAELens and dictionary_learning in their own environment, step by step on request: the other side of `sae.py`.

One JSON object a line is asked and answered: {"make": case, ...}, {"step": case, "n": steps} or {"fvu": case, ...}.
"""

import json
import sys
import time
from typing import Any

import numpy as np
import torch


class SaeLens:
    """SAELens's own training step, without its data provider and its logging."""

    def __init__(self, about: dict[str, Any], rows: torch.Tensor) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        kinds = {
            "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
            "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
        }
        cls, config = kinds[about["arch"]]
        self.sae = cls(config(d_in=about["d"], d_sae=about["width"], k=about["k"], device="cpu", dtype="float32"))
        self.sae.b_dec.data = rows[:100_000].mean(0)
        n, batch = about["steps"], about["batch"]
        trainer_config = SAETrainerConfig(
            total_training_samples=n * batch, train_batch_size_samples=batch, lr=about["lr"], lr_end=about["lr"] / 10,
            lr_warm_up_steps=n // 20, lr_decay_steps=n // 5,
        )  # fmt: skip
        self.trainer = SAETrainer(trainer_config, self.sae, iter(()))

    def step(self, _: int, x: torch.Tensor) -> None:
        self.trainer._train_step(self.sae, x)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.decode(self.sae.encode(x))


class DictionaryLearning:
    """dictionary_learning's trainer as its own loop calls it."""

    def __init__(self, about: dict[str, Any], rows: torch.Tensor) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer

        n = about["steps"]
        self.trainer = TopKTrainer(
            n, about["d"], about["width"], about["k"], 0, "m", lr=about["lr"], warmup_steps=max(1, n // 20),
            decay_start=n - max(1, n // 5), device="cpu", seed=0,
        )  # fmt: skip

    def step(self, number: int, x: torch.Tensor) -> None:
        self.trainer.update(number, x)

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        return self.trainer.ae.decode(self.trainer.ae.encode(x, use_threshold=False))


def main() -> None:
    torch.set_num_threads(1)
    cases: dict[str, tuple[Any, torch.Tensor, int]] = {}
    numbers: dict[str, int] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if name := asked.get("make"):
            rows = torch.from_numpy(np.load(asked["rows"]))
            kind = SaeLens if asked["library"] == "saelens" else DictionaryLearning
            cases[name], numbers[name] = (kind(asked, rows), rows, asked["batch"]), 0
        elif name := asked.get("step"):
            case, rows, batch = cases[name]
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(asked["n"]):
                start = numbers[name] * batch % (len(rows) - batch + 1)
                case.step(numbers[name], rows[start : start + batch])
                numbers[name] += 1
            answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        elif name := asked.get("fvu"):
            x = torch.from_numpy(np.load(asked["rows"]))
            with torch.no_grad():
                error = float((cases[name][0].reconstruct(x) - x).double().square().sum())
            answer = {"fvu": error / float((x - x.mean(0)).double().square().sum())}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
