"""`lake experiment correctness`: its steps over tinymath, looked up when called again, and what is refused."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.lake.errors import LakeError, NotFoundError, UsageError

CONFIG = """
dataset: tinymath:test
dataset_limit: 60
train_dataset: tinymath:train
train_limit: 60
batch_size: 60
generation: {max_new_tokens: 96}
directions: {methods: [mean-difference]}
ablation: {layers: "1", sites: [mlp_out], limit: 4}
neurons: {neurons: "2", atoms: 2}
"""


def file(tmp_path: Path, text: str = CONFIG) -> Path:
    path = tmp_path / "correctness.yaml"
    path.write_text(text)
    return path


@pytest.mark.slow
def test_all_steps_run_and_are_looked_up_when_called_again(tmp_path: Path) -> None:
    lake = tracelake.OpenLake.create(tmp_path / "lake")
    page = tmp_path / "report.html"
    path = file(tmp_path, f"{CONFIG}report: {page}\n")
    begun = lake.experiment("correctness", path, steps="1,5")
    assert [step.computed for step in begun.steps] == [True, True]
    done = lake.experiment("correctness", path)
    assert [step.status for step in done.steps] == ["complete"] * 7
    assert [step.computed for step in done.steps if step.step in (1, 5)] == [False, False]
    assert "tracelake report" in page.read_text() and "after Holm" in page.read_text()
    assert {name for step in done.steps for name in step.analyses} == {
        "directions", "ablation", "layer-ablations", "neurons", "second-order", "neuron-effects", "neuron-pca",
        "neuron-words", "neuron-ablation",
    }  # fmt: skip
    tables = ("layer_ablations", "neuron_ranks", "neuron_effects", "neuron_components", "neuron_words")
    counts = {name: lake.scan(name).collect().height for name in (*tables, "effect_validation")}
    assert counts["layer_ablations"] == 3 and counts["neuron_words"] == 5 * 2 * 2
    again = lake.experiment("correctness", path)
    assert again.experiment_id == done.experiment_id and not any(step.computed for step in again.steps)
    assert {name: lake.scan(name).collect().height for name in counts} == counts
    some = lake.experiment("correctness", path, steps="2,4")
    assert [step.step for step in some.steps] == [2, 4]
    planned = lake.experiment("correctness", path, dry_run=True)
    assert {cost.part for cost in planned.costs if cost.stored} == {"train:96", "test:96"}
    without = lake.experiment("correctness", file(tmp_path))
    assert [step.status for step in without.steps] == ["complete"] * 6 + ["skipped"]


def test_a_dry_run_says_tokens_bytes_and_minutes_and_writes_nothing(tmp_path: Path) -> None:
    text = CONFIG.replace("batch_size: 60", "batch_size: 4").replace("max_new_tokens: 96", "max_new_tokens: 4")
    where = ["--config", str(file(tmp_path, text)), "--dry-run", "--lake", str(tmp_path / "lake")]
    ran = CliRunner().invoke(app, ["experiment", "correctness", *where])
    assert ran.exit_code == 0, ran.output
    for part in ("train:4", "test:4", "ablation", "ranking", "second-order", "neurons"):
        assert re.search(rf"^{part}: about \d+\.\d minutes$", ran.stdout, re.MULTILINE), part
    n_bytes = {line.split()[1]: line.split()[-1] for line in ran.stdout.splitlines() if line[:1].isdigit()}
    # Two effects of 4 bytes for each of 6 x 512 neurons and 60 problems; a row of 60 bytes for each of those neurons;
    # 4 bytes for each of 60 problems, 2 neurons and the 60 pairs of an MLP's layer and a later head.
    assert n_bytes["second-order"] == f"<={2 * 4 * 6 * 512 * 60:,}" and n_bytes["ranking"] == f"<={60 * 6 * 512:,}"
    assert n_bytes["neurons"] == f"<={4 * 60 * 2 * 60:,}"
    assert not (tmp_path / "lake").exists()


def test_what_cannot_be_is_refused_before_anything_runs(tmp_path: Path) -> None:
    lake = tracelake.OpenLake.create(tmp_path / "lake")
    for text, options, error, words in (
        (CONFIG, {"steps": "9"}, UsageError, "no step '9' of correctness"),
        (CONFIG, {"runs": ["latest"]}, UsageError, "collects its own answers"),
        (CONFIG + "nonsense: 1\n", {}, LakeError, "no setting 'nonsense'"),
        (CONFIG.replace("tinymath:train", "tinymath:none"), {}, LakeError, "none"),
    ):
        with pytest.raises(error, match=words):
            lake.experiment("correctness", file(tmp_path, text), **options)
    with pytest.raises(NotFoundError, match="cannot be read"):
        lake.experiment("correctness", tmp_path / "missing.yaml")
    assert not lake.runs
