"""Models whose layers keep keys in some layers and a state in others: batches, early ends, chunks."""

from pathlib import Path

import pytest
import torch
from plain_sequences import PlainCausal, check_run, collect, sequences_of
from random_models import END_IDS
from unusual_models import HYBRID, save_unusual, unusual_model

from tracelake.collect.models.cache import growing_cache, select_rows

SAMPLED = {"samples": 2, "temperature": 1.0, "top_k": 40, "batch_size": 4, "seed": 3}
QUICK = ("jamba", "lfm2", "falcon_h1")
NAMES = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in HYBRID]


@pytest.mark.parametrize("name", NAMES)
def test_batches_with_early_ends_are_exact(name: str, tmp_path: Path) -> None:
    folder = save_unusual(name, tmp_path / "model")
    plain = PlainCausal(folder)
    lengths: set[int] = set()
    for settings in ({}, SAMPLED):
        lake, run = collect(folder, tmp_path / str(len(settings)), **settings)
        check_run(lake, run.run_id, plain.read, greedy=not settings)
        lengths |= {int((~tokens["is_prompt"]).sum()) for tokens in sequences_of(lake, run.run_id).values()}
    assert len(lengths) > 1, "all sequences end together: nothing is tried"


@pytest.mark.parametrize("name", ["lfm2", "qwen3_next"])
def test_greedy_tokens_are_those_of_generate(name: str, tmp_path: Path) -> None:
    folder = save_unusual(name, tmp_path / "model")
    plain = PlainCausal(folder)
    lake, run = collect(folder, tmp_path / "lake")
    for tokens in sequences_of(lake, run.run_id).values():
        ids = tokens["token_id"].to_numpy()
        n = int(tokens["is_prompt"].sum())
        written = ids[n:].tolist()
        assert written == plain.generate(ids[:n].astype("int64"), len(written))
        assert not set(written[:-1]) & set(END_IDS)


@pytest.mark.parametrize("name", ["lfm2", "falcon_h1", "qwen3_next"])
def test_rows_of_a_cache_may_leave_and_be_repeated(name: str) -> None:
    """Keys and states are selected together: each row goes on as if it had always stood there."""
    model = unusual_model(name)
    ids = torch.arange(21).view(3, 7) + 20
    rows = torch.tensor([2, 0, 2, 2])
    following = torch.tensor([[60], [61], [62], [63]])
    with torch.no_grad():
        cache = growing_cache(model.config, model.base_model)
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        select_rows(cache, rows)
        found = model(input_ids=following, past_key_values=cache, use_cache=True).logits[:, -1]
        wanted = model(input_ids=torch.cat((ids[rows], following), dim=1), use_cache=False).logits[:, -1]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
