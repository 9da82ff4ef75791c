"""Models that do not compute the same in a batch, in chunks or through a cache are read so that they do, or refused."""

from pathlib import Path

import pytest
from plain_sequences import PlainCausal, check_run, collect, sequences_of
from unusual_models import COUNTING, RECURRENT, UNCACHED, save_unusual

SAMPLED = {"samples": 2, "temperature": 1.0, "top_k": 40, "batch_size": 4, "seed": 3}
QUICK = ("mamba", "rwkv", "openai-gpt", "roberta")
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in (*RECURRENT, *UNCACHED, *COUNTING)
]


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_that_of_a_plain_pass(name: str, tmp_path: Path) -> None:
    folder = save_unusual(name, tmp_path / "model")
    plain = PlainCausal(folder)
    lengths: set[int] = set()
    for settings in ({}, SAMPLED):
        lake, run = collect(folder, tmp_path / str(len(settings)), **settings)
        check_run(lake, run.run_id, plain.read, greedy=not settings)
        lengths |= {int((~tokens["is_prompt"]).sum()) for tokens in sequences_of(lake, run.run_id).values()}
    assert len(lengths) > 1, "all sequences end together: nothing is tried"
