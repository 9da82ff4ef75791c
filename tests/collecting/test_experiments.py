"""Experiments end to end on the bundled model: steps that find their runs again, go on, and say what they will take."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from lake_command import files
from made_experiments import SMALL, SOURCE, rows

from tracelake.collect.experiment.config_file import read_config
from tracelake.collect.experiment.sampling_config import WITHOUT_EFFECT, SamplingConfig
from tracelake.collect.running.progress import Callbacks
from tracelake.facade.experiments.experiment_lake import Experiment
from tracelake.facade.open_lake import OpenLake
from tracelake.lake.errors import ConfigError, StoppedError

Whole = tuple[OpenLake, Experiment]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A lake with all steps of a small experiment."""
    lake = OpenLake.create(tmp_path_factory.mktemp("experiment") / "lake")
    return lake, lake.experiment("all", SMALL)


def part_of(lake: OpenLake, part: str) -> str:
    found = lake.sql(f"SELECT run_id FROM runs WHERE experiment_step = '{part}'")["run_id"].to_list()
    assert len(found) == 1, f"{part}: {found}"
    return found[0]


def test_every_step_leaves_its_rows(whole: Whole) -> None:
    lake, done = whole
    assert [(one.step, one.status, one.computed) for one in done.steps] == [(n, "complete", True) for n in range(2, 9)]
    tables = {
        "variance": "sampling_variance", "oracle": "oracle_distances", "sensitivity": "path_sensitivity",
        "attribution": "logit_contributions", "clusters": "cluster_summaries", "judge": None,
        "deviations": "directions", "random-directions": "directions", "pass-rates": "pass_rates",
        "steering": "steering_effects",
    }  # fmt: skip
    seen = set()
    for step in done.steps:
        for name, ids in step.analyses.items():
            seen.add(name)
            if (table := tables[name]) is not None:
                assert rows(lake, table, ids[-1]), name
    assert seen == set(tables)
    known = set(lake.sql("SELECT DISTINCT experiment_id FROM runs")["experiment_id"].to_list())
    assert known == {done.experiment_id}


def test_called_again_nothing_is_done_again(whole: Whole) -> None:
    lake, done = whole
    before = files(Path(lake.path))
    again = lake.experiment("all", SMALL)
    assert not any(step.computed for step in again.steps)
    assert [step.analyses for step in again.steps] == [step.analyses for step in done.steps]
    assert files(Path(lake.path)) == before


def test_a_dry_run_bounds_what_was_collected_and_writes_nothing(whole: Whole, tmp_path: Path) -> None:
    lake, _ = whole
    empty = OpenLake.create(tmp_path / "lake")
    before = files(tmp_path)
    planned = empty.experiment("all", SMALL, dry_run=True)
    assert files(tmp_path) == before and not planned.steps
    costs = {one.part: one for one in planned.costs}
    collected = lake.sql("SELECT experiment_step AS part, n_sequences, n_tokens FROM runs")
    for part, n_sequences, n_tokens in collected.iter_rows():
        kind = part.partition(":")[0]
        cost = costs.get(part) or costs["2 steered runs" if kind == "steered" else kind]
        assert cost.n_tokens >= n_tokens and cost.n_sequences >= n_sequences, part
    assert costs["branches"].n_branches == 4 * 8
    assert all(one.stored for one in lake.experiment("variance", SMALL, dry_run=True).costs)


def test_an_interrupted_experiment_goes_on_and_ends_as_if_it_had_not_been(whole: Whole, tmp_path: Path) -> None:
    lake = OpenLake.create(tmp_path / "lake")
    asked = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(StoppedError):
        lake.experiment("variance", SMALL, callbacks=Callbacks(should_stop=stop))
    assert set(lake.sql("SELECT status FROM runs")["status"]) & {"interrupted"}
    done = lake.experiment("variance", SMALL)
    assert done.experiment_id == whole[1].experiment_id
    assert lake.sql("SELECT status FROM runs")["status"].to_list() == ["complete", "complete"]
    for part in ("greedy:48", "sampled:1:3:48"):
        mine, theirs = (
            one.scan("token_steps", run=part_of(one, part)).drop("run_id", "latency_ms").collect()
            for one in (lake, whole[0])
        )
        assert mine.sort("sequence_id", "position").equals(theirs.sort("sequence_id", "position"), null_equal=True)


def test_what_all_runs_share_makes_the_id_and_nothing_else_does(whole: Whole) -> None:
    lake, done = whole

    def known_as(**changes: Any) -> str:
        config = copy.deepcopy(SMALL) | changes
        return lake.experiment("variance", config, dry_run=True).experiment_id

    same = {"batch_size": 3}, {"experiment_name": "x"}, {"variance_exp": {"temperatures": [0.0, 0.5]}}
    assert {known_as(**one) for one in same} == {done.experiment_id}
    other = {"seed": 1}, {"dataset_limit": 5}, {"dataset": "tinymath:train"}, {"generation": {"top_p": 0.9}}
    ids = [known_as(**one) for one in (*other, {"site": "resid_pre"}, {"variance_layers": [1]})]
    assert len({*ids, done.experiment_id}) == len(ids) + 1


def test_a_stored_run_is_used_instead_of_a_new_one(whole: Whole) -> None:
    lake, _ = whole
    greedy, sampled = part_of(lake, "greedy:48"), part_of(lake, "sampled:1:3:48")
    n = len(lake.run_rows())
    done = lake.experiment("all", SMALL, runs=[greedy, sampled], steps="2,7")
    assert done.steps[1].runs == {"sampled": sampled} and len(lake.run_rows()) == n
    assert done.steps[0].analyses == lake.experiment("variance", SMALL).steps[0].analyses


def test_forced_answers_begin_with_the_oracles_own_tokens(whole: Whole) -> None:
    lake, _ = whole
    steps = [lake.scan("token_steps", run=part_of(lake, part)) for part in ("oracles", "forced:0.3:48")]
    oracles, forced = (
        one.filter(pl.col("step") >= 0).sort("sequence_id", "step").collect().partition_by("sequence_id", as_dict=True)
        for one in steps
    )
    texts = lake.scan("sequences", run=part_of(lake, "oracles")).sort("sequence_id").collect()
    assert set(texts["origin"]) == {"oracle"} and all(one.startswith(" Split:") for one in texts["completion"])
    assert len(oracles) == len(forced) == 4
    for key, oracle in oracles.items():
        n = max(1, int(0.3 * oracle.height))
        own = forced[key]
        assert own["is_forced"].to_list()[: n + 1] == [True] * n + [False]
        assert own["token_id"][:n].to_list() == oracle["token_id"][:n].to_list()


def test_attribution_looks_at_the_most_sensitive_whole_windows(whole: Whole) -> None:
    lake, done = whole
    named = {name: ids for step in done.steps for name, ids in step.analyses.items()}
    seen = rows(lake, "path_sensitivity", named["sensitivity"][0])
    best = sorted((one for one in seen if one["complete"]), key=lambda one: -one["divergence"])[:5]
    wanted = {(one["sequence_id"], one["position"] - 1, one["token_id"], one["alternative_id"]) for one in best}
    parts = rows(lake, "logit_contributions", named["attribution"][0])
    assert {(one["sequence_id"], one["position"], one["token_a"], one["token_b"]) for one in parts} == wanted
    for point in wanted:
        own = [one for one in parts if (one["sequence_id"], one["position"]) == point[:2]]
        assert sum(one["contribution"] for one in own) == pytest.approx(own[0]["logit_diff"], abs=1e-3)


def test_a_trial_is_one_problem_one_sample_ten_tokens(tmp_path: Path) -> None:
    lake = OpenLake.create(tmp_path / "lake")
    done = lake.experiment("all", SMALL, trial=True)
    assert [one.step for one in done.steps] == list(range(2, 9))
    refused = {one.name for one in done.steps if one.status == "refused"}
    assert "variance" in refused and "sensitivity" not in refused
    about = lake.sql("SELECT prompt_id, sample, n_generated_tokens, origin FROM sequences")
    assert about["prompt_id"].n_unique() == 1 and set(about["sample"]) == {0}
    written = about.filter(pl.col("origin") != "oracle")["n_generated_tokens"].to_numpy()
    assert np.max(written) <= 10 + about.filter(pl.col("origin") == "oracle")["n_generated_tokens"].to_numpy()[0]
    assert not lake.sql("SELECT * FROM judgements").height


def test_the_source_s_own_file_loads_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(SOURCE)
    config, notices = read_config(SamplingConfig, file, WITHOUT_EFFECT)
    said = {notice.partition(" has no effect")[0] for notice in notices}
    assert said == {
        "output_dir", "data_path", "task_name", "temperatures", "sensitivity_exp.lookahead_tokens",
        "generation.do_sample", "generation.temperature", "model.trust_remote_code", "steering.source_layer",
    }  # fmt: skip
    assert (config.latent_sampling_stride, config.latent_pooling_window, config.target_layer) == (32, 8, 22)
    assert config.variance_layers == (5, 10, 15, 20, 25, 31) and config.manifold_exp.oracle_percentage == (0.3,)
    assert config.variance_exp.token_checkpoints == (32, 64, 128) and config.steering.enabled is False
    assert config.sampling_settings() == {"top_p": 0.95, "top_k": 50, "repetition_penalty": 1.0}
    assert config.collect_settings()["model"] == "Qwen/Qwen3-8B" and config.attribution_exp.top_n_points == 200


def test_steps_that_are_switched_off_are_named(whole: Whole) -> None:
    lake, _ = whole
    off = copy.deepcopy(SMALL) | {"steering": SMALL["steering"] | {"enabled": False}}
    done = lake.experiment("all", off)
    assert [one.step for one in done.steps if one.status == "skipped"] == [8]
    assert lake.experiment("steering", off).steps[0].status == "complete"


def test_resuming_needs_the_same_model(whole: Whole, tmp_path: Path) -> None:
    lake, _ = whole
    with pytest.raises(ConfigError, match="another model"):
        from random_models import random_model, save

        other = save(random_model("gpt2"), tmp_path / "gpt2")
        changes = {"model.model_name_or_path": str(other), "target_layer": 0, "variance_layers": [0]}
        lake.experiment("variance", SMALL, runs=[part_of(lake, "greedy:48")], changes=changes)
