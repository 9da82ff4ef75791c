"""What cannot be asked of sampling: each mistake has its sentence and its exit code, and leaves the lake as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from lake_command import files, lake_command
from made_answers import N_PROMPT, Answer, write_answers
from made_experiments import SMALL
from random_models import random_model, save

import tracelake
from tracelake.lake import Lake


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with greedy and sampled answers of the bundled model and some made by hand with NaN, and files."""
    folder = tmp_path_factory.mktemp("refusals")
    keep = ["tokens", "activations:resid_post@2:generated"]
    common = {"dataset": "tinymath:test", "limit": 2, "max_new_tokens": 6, "device": "cpu", "keep": keep}
    lake = str(folder / "lake")
    tracelake.collect(lake, temperature=0, tag="greedy", **common)  # type: ignore[arg-type]
    tracelake.collect(lake, temperature=1, samples=2, tag="sampled", **common)  # type: ignore[arg-type]
    tracelake.collect(lake, temperature=1, tag="single", **common)  # type: ignore[arg-type]
    states = {("resid_post", 2): np.full((N_PROMPT + 2, 3), np.nan)}
    row = {"origin": "sampled", "temperature": 1.0, "correct": True}
    write_answers(Lake.open(lake), "broken", [Answer("p", states, [1, 2], row)] * 2)
    np.save(folder / "wide.npy", np.ones(7))
    np.save(folder / "nan.npy", np.full(128, np.nan))
    np.save(folder / "zero.npy", np.zeros(128))
    save(random_model("gpt2"), folder / "gpt2")
    return folder


def steering(**more: object) -> dict[str, object]:
    return {"steering": SMALL["steering"] | {"method": "stored", "max_new_tokens": 6} | more}


EXPERIMENTS = [
    ("all", "--steps 9", {}, 2, "there is no step '9' of all. Possible: 2 (variance), 3 (oracle)"),
    ("oracle", "--steps 5", {}, 2, "there is no step '5' of oracle. Possible: 3 (oracle), 4 (oracle)"),
    ("all", "", {"variance_exp": {"temperature": [1]}}, 4, "'variance_exp.temperature'. Did you mean 'temperatures'?"),
    ("all", "", {"clusterings": {}}, 4, "no setting 'clusterings'. Did you mean 'clustering'?"),
    ("all", "", {"clustering": 3}, 4, "clustering is a section of settings, not 3"),
    ("all", "", {"site": "resid_pst"}, 4, "no site 'resid_pst'. Did you mean 'resid_post'?"),
    ("all", "", {"target_layer": 22}, 4, "no layer 22: the model has 6, 0 to 5"),
    ("all", "", {"variance_layers": [1, -7]}, 4, "no layer -7"),
    ("all", "", {"manifold_exp": {"oracle_percentage": 30}}, 4, "a share of the oracle lies between 0 and 1, not 30"),
    ("all", "", {"n_samples_per_problem": 0}, 4, "n_samples_per_problem"),
    ("all", "", {"oracle": "file"}, 4, "oracle: file and oracle_file belong together"),
    ("all", "", {"oracle": "api"}, 4, "oracle: api needs oracle_model"),
    ("oracle", "", {"oracle_key": "neither"}, 2, "no solution 'neither'. Possible: direct, split"),
    ("variance", "", {"dataset": "tinymath:tset"}, 3, "Did you mean 'test'?"),
    ("variance", "--run single", {"variance_layers": [2]}, 4, "one sample of each prompt: one vector has no variance"),
    ("variance", "--run nowhere", {}, 3, "no run 'nowhere'"),
    ("variance", "--run greedy --run greedy", {}, 2, "Two runs of temperature 0"),
    ("variance", "--run broken", {}, 4, "holds no answers that a model was asked for"),
    ("variance", "--run greedy", {"variance_layers": [4]}, 3, "--keep activations:resid_post@4"),
    ("variance", "--run greedy --model {folder}/gpt2", {"target_layer": 0}, 4, "another model: its"),
    ("steering", "", steering(directions=["nowhere"]), 3, "There is no direction 'nowhere'"),
    ("steering", "", steering(directions=["{folder}/none.npy"]), 3, "no file"),
    ("steering", "", steering(directions=["{folder}/wide.npy"]), 4, "has 7 elements, resid_post of run"),
    ("steering", "", steering(directions=["{folder}/nan.npy"]), 4, "holds NaN or infinity"),
    ("steering", "", steering(directions=["{folder}/zero.npy"]), 4, "zeros, which has no direction"),
    ("steering", "", steering(), 4, "method stored needs directions"),
    ("steering", "", steering(method="pca", directions=["a"]), 4, "say method stored"),
    ("steering", "", steering(directions=["a"], strength=0), 4, "strength 0 changes nothing"),
    ("steering", "--run greedy --run single", steering(method="mean_diff"), 4, "a direction needs 10 of each"),
]  # fmt: skip
"""Verb, options, changes of a configuration, exit code, words."""

COMMANDS = [
    ("collect --branch-from greedy --at 99 --force second", 2, "completion tokens, steps 0 to"),
    ("collect --branch-from sampled --force second", 2, "--branch-from needs --at STEP"),
    ("collect --branch-from greedy --at 0 --force text:of-several-tokens", 4, "is 6 tokens|one token can be forced"),
    ("collect --branch-from greedy --at 0 --force second --model {folder}/gpt2", 4, "collected with another model"),
    ("collect --branch-from greedy --at 0 --sequence 7", 3, "no sequence 7"),
    ("collect --dataset tinymath:test --limit 2 --given run:greedy:2", 2, "the share lies between 0 and 1"),
    ("collect --dataset tinymath:test --limit 2 --given run:nowhere:0.5", 3, "no run 'nowhere'"),
    ("collect --dataset tinymath:test --limit 2 --given solutions:greedy", 3, "no right solutions in"),
    ("collect --dataset tinymath:train --limit 2 --given run:greedy:0.5", 4, "no completion of any of these prompts"),
    ("collect --prompt Hi --given dataset", 4, "No problem of the dataset comes with a solution"),
    ("collect --dataset tinymath:test --limit 1 --edit add:resid_post@2:direction={folder}/wide.npy", 4, "7 elements"),
    ("analyze variance single", 4, "one sample of each prompt"),
    ("analyze variance sampled --site resid_pst", 3, "Did you mean 'resid_post'?.*--keep activations:resid_pst"),
    ("analyze variance sampled --layer 4", 3, "lake collect --continue sampled.* --keep activations:resid_post@4"),
    ("analyze variance broken", 4, "NaN or infinite states"),
    ("analyze clusters broken --layer 2", 4, "NaN or infinite states"),
    ("analyze oracle greedy", 3, "has an oracle: none of their sequences"),
    ("analyze sensitivity greedy sampled", 3, "has no branches of run"),
    ("analyze deviations sampled sampled", 4, "is not greedy"),
    ("analyze steering greedy sampled", 4, "is not steered"),
    ("analyze judge sampled --judge-model m --pairs all --key-env NO_KEY", 4, "NO_KEY holds no key|graded correct"),
]  # fmt: skip


def check_refused(folder: Path, words: str, code: int, *arguments: str) -> None:
    import re

    before = files(folder / "lake")
    found, message = lake_command(*arguments, "--lake", str(folder / "lake"))
    assert re.search(words, " ".join(message.split())), message
    assert found == code, message
    assert files(folder / "lake") == before


@pytest.mark.parametrize(("verb", "options", "changes", "code", "words"), EXPERIMENTS)
def test_an_experiment_that_cannot_be(
    folder: Path, tmp_path: Path, verb: str, options: str, changes: dict[str, object], code: int, words: str
) -> None:
    import re

    text = json.dumps({**SMALL, **changes}).replace("{folder}", str(folder))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(json.loads(text)))
    runs = [] if "--run" in options or verb != "steering" else ["--run", "greedy", "--run", "sampled"]
    typed = [*options.format(folder=folder).split(), *runs, "--config", str(tmp_path / "config.yaml")]
    check_refused(folder, re.escape(words), code, "experiment", verb, *typed)


@pytest.mark.parametrize(("command", "code", "words"), COMMANDS)
def test_a_command_that_cannot_be(folder: Path, command: str, code: int, words: str) -> None:
    typed = command.format(folder=folder).split()
    if typed[0] == "collect":
        typed += ["--device", "cpu", "--max-new-tokens", "2"]
    check_refused(folder, words, code, *typed)


def test_fewer_right_answers_than_clusters_are_a_row_with_a_reason(folder: Path, tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    rng = np.random.default_rng(0)
    row = {"origin": "sampled", "temperature": 1.0, "correct": True, "completion": "a"}
    states = [{("resid_post", 2): rng.normal(size=(N_PROMPT + 2, 3))} for _ in range(2)]
    write_answers(lake, "few", [Answer("p", one, [1, 2], row | {"completion": str(n)}) for n, one in enumerate(states)])
    code, message = lake_command(
        "analyze", "clusters", "few", "--k", "3", "--layer", "2", "--lake", str(tmp_path / "lake")
    )
    assert code == 0, message
    reasons = set(lake.sql("SELECT reason FROM cluster_summaries WHERE prompt_id IS NOT NULL")["reason"])
    assert reasons == {"fewer different solutions than k = 3"}
