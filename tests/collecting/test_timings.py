"""Where the time goes: operations, the wall time, what neither explains, and the overhead over the bare model."""

import json
import time

import pytest
import torch
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.decoding.reading.replay import replay
from tracelake.collect.decoding.sequence import Sequence
from tracelake.collect.decoding.timings import WALL, Timings
from tracelake.collect.running.collector import Collection
from tracelake.lake import Lake
from tracelake.queries.cost import run_cost

SETTINGS = {"dataset": "tinymath:test", "limit": 9, "max_new_tokens": 12, "batch_size": 3, "device": "cpu"}


def test_wall_time_leaves_out_a_pause_and_counts_what_came_before():
    timings = Timings()
    with timings.measure("load"):
        time.sleep(0.02)
    time.sleep(0.1)
    timings.begin()
    with timings.measure("decode"), timings.measure("inner"):
        time.sleep(0.02)
    taken = timings.take()
    explained = taken["load"].total_ms + taken["decode"].total_ms
    assert explained <= taken[WALL].total_ms < explained + 60
    assert taken["inner"].parent == "decode"
    assert timings.take()[WALL].total_ms < 50


def test_operations_explain_nearly_all_of_the_wall_time(tmp_path):
    start = time.perf_counter()
    run_id = tracelake.collect(tmp_path, **SETTINGS).run_id
    elapsed_ms = (time.perf_counter() - start) * 1000
    cost = run_cost(tracelake.open(tmp_path), run_id)
    names = {row["name"] for row in cost["operations"]}
    assert {"load", "plan", "prefill", "prompt_logits", "decode", "choose", "summaries", "rows", "write"} <= names
    top = sum(row["total_ms"] for row in cost["operations"] if row["parent"] is None)
    assert cost["wall_ms"] == pytest.approx(top + cost["unaccounted_ms"])
    assert 0 <= cost["unaccounted_ms"] < 0.5 * cost["wall_ms"]
    assert cost["wall_ms"] <= elapsed_ms
    assert cost["overhead"] is None


def test_strict_timings_compare_with_the_bare_model(tmp_path):
    command = ["collect", "--lake", str(tmp_path), "--strict-timings"]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    shown = ["show", "--timings", "--lake", str(tmp_path)]
    overhead = json.loads(CliRunner().invoke(app, [*shown, "--json"], catch_exceptions=False).stdout)["overhead"]
    assert overhead["overhead_ms"] == pytest.approx(overhead["instrumented_ms"] - overhead["baseline_ms"])
    assert overhead["overhead_share"] == pytest.approx(overhead["overhead_ms"] / overhead["baseline_ms"])
    text = CliRunner().invoke(app, shown, catch_exceptions=False).stdout
    assert "unaccounted" in text and "bare model" in text
    # The rows are those of a run without the comparison.
    assert Lake.open(tmp_path).verify("deep").ok


@pytest.mark.parametrize("architecture", ["gpt2", "qwen2", "mistral"])
def test_the_bare_model_sees_the_same_tokens(tmp_path, model_folder, architecture):
    prompts = ["one", "two and three and four", "five six seven eight nine ten eleven twelve"]
    config = CollectConfig(
        model=str(model_folder(architecture)), prompt=prompts, max_new_tokens=9, device="cpu", keep=["tokens"]
    )
    collection = Collection(config)
    run_id = collection.start(Lake.create(tmp_path)).run_id
    lake = tracelake.open(tmp_path)
    tokens = lake.sql(f"select * from token_steps where run_id = '{run_id}' order by sequence_id, position")
    batch = []
    for (number,), rows in tokens.group_by("sequence_id", maintain_order=True):
        prompt_ids = rows.filter("is_prompt")["token_id"].to_numpy()
        batch.append(Sequence(number, number, 0, prompt_ids, rows.filter(~rows["is_prompt"])["token_id"].to_list()))
    batch[1].generated = batch[1].generated[:4]  # leaves early
    seen: list[torch.Tensor] = []
    unembed = collection.loaded.unembed

    class Recording:
        def __call__(self, states: torch.Tensor) -> torch.Tensor:
            seen.append(unembed(states).argmax(-1))
            return unembed(states)

    collection.loaded.__dict__["unembed"] = Recording()
    replay(collection.loaded, [batch], collection.plan.reading, chunk=3)
    for step, ids in enumerate(seen[:9]):
        alive = [s for s in batch if len(s.generated) >= step]
        wanted = [s.generated[step] if step < len(s.generated) else None for s in alive]
        assert len(ids) == len(alive)
        assert all(want is None or want == found for want, found in zip(wanted, ids.tolist(), strict=True))
