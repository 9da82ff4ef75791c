"""Peak memory of `lake experiment second-order` over few and over many prompts, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.gpt2_size import D_VOCAB, prompt_ids, prompt_texts, save_model

LENGTH = 8
COMMAND = [sys.executable, "-c", "from tracelake.cli import main; main()"]
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_mb(folder: Path, n_prompts: int, *, quick: bool) -> float:
    """Prompts of 8 tokens read by a model of GPT-2's size, then scored: largest resident memory of the scoring, MB."""
    lake, model = folder / f"lake{n_prompts}", folder / "model"
    if not model.exists():
        model.mkdir(parents=True)
        save_model(model, quick=quick)
    prompts = folder / f"prompts{n_prompts}.txt"
    texts = prompt_texts(prompt_ids(n_prompts, LENGTH, seed=n_prompts, d_vocab=D_VOCAB))
    prompts.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    direction = folder / "direction.npy"
    np.save(direction, np.random.default_rng(1).normal(size=64 if quick else 768))
    collected = ["--prompts", str(prompts), "--max-new-tokens", "0", "--keep", "activations:final_norm:last"]
    _run(lake, "collect", "--model", str(model), *collected, "--batch-size", "64", "--tag", "prompts", "--yes")
    return _run(lake, "experiment", "second-order", "prompts", "--direction", str(direction))


def _run(lake: Path, *arguments: str) -> float:
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--lake", str(lake)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"lake {arguments[0]} ended with {process.returncode}: {said.decode()[-2000:]}")
    return usage.ru_maxrss * RSS_UNIT / 2**20
