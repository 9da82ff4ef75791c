"""`lake sae` end to end on the bundled model: dry run, train, list, follow, resume, features, compare, rm, mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from sae_lakes import tinymath_lake
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.commands.sae.lists import layer_numbers
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, LakeError, NotFoundError, UsageError

TRAIN = ("train", "read", "--layers", "2,4", "--width", "96", "--k", "6", "--tokens", "4000", "--batch-size", "512")
TRAIN = (*TRAIN, "--validation-run", "check", "--commits", "2", "--tag", "first")


def sae(lake: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["sae", *arguments, "--lake", str(lake)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    tinymath_lake(folder, n=24)
    sae(folder, *TRAIN)
    return folder


def test_a_dry_run_says_what_the_run_then_is(lake: Path) -> None:
    before = len(Lake.open(lake).runs())
    sizes = json.loads(sae(lake, *TRAIN, "--dry-run", "--json"))
    assert sizes["n_saes"] == 2 and sizes["n_steps"] == 8 and sizes["n_commits"] == 2
    assert sizes["n_parameters"] == 2 * (2 * 96 * 128 + 96 + 128)
    assert len(Lake.open(lake).runs()) == before


def test_list_and_follow(lake: Path) -> None:
    listed = json.loads(sae(lake, "list", "--json"))
    assert [row["layer"] for row in listed["saes"]] == [2, 4] and listed["trainings"] == []
    result = CliRunner().invoke(app, ["show", "first", "--follow", "--json", "--lake", str(lake)])
    news = [json.loads(line) for line in result.stdout.splitlines()]
    rows = Lake.open(lake).scan("sae_training", "first").collect()
    committed = rows.drop_nulls("validation_fvu").sort("step", "sae_id")
    assert [one["step"] for one in news] == committed["step"].to_list() and len(news) == 4
    assert [one["validation_fvu"] for one in news] == committed["validation_fvu"].to_list()


def test_features_and_comparison(lake: Path) -> None:
    card = json.loads(sae(lake, "features", "tinymath-resid_post-2", "--run", "check", "--show", "3", "--json"))
    assert card["stats"]["feature"] == 3 and len(card["stats"]["top_logits"]) == 10
    assert "feature 3 of tinymath-resid_post-2" in sae(
        lake, "features", "tinymath-resid_post-2", "--run", "check", "--show", "3"
    )
    same = json.loads(sae(lake, "compare", "tinymath-resid_post-2", "tinymath-resid_post-2", "--json"))
    assert same["share_of_a"] == same["share_of_b"] == 1.0 and same["mean_max_cos_a"] == pytest.approx(1)


def test_top_logits_are_products_with_the_unembedding(lake: Path) -> None:
    """Against the bare model: final norm's weight, centred rows, and the tied unembedding."""
    import torch

    from tracelake.analysis.sae.folder import load_sae
    from tracelake.collect.models.loading.load import load_model

    sae(lake, "features", "tinymath-resid_post-4", "--run", "check")
    opened = Lake.open(lake)
    rows = load_sae(opened, "tinymath-resid_post-4").weights["W_dec"]
    loaded = load_model("tinymath")
    weight = loaded.model.lm_head.weight.detach()
    effects = ((rows - rows.mean(1, keepdim=True)) * loaded.model.transformer.ln_f.weight.detach()) @ weight.T
    stats = opened.scan("feature_stats", "check").collect()
    stats = stats.filter(stats["sae_id"].str.starts_with("tinymath-resid_post-4")).sort("feature")
    for feature in (0, 17, 95):
        best = [loaded.tokenizer.decode([i]) for i in torch.topk(effects[feature], 10).indices]
        assert stats["top_logits"][feature].to_list() == best


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        (["train"], UsageError, "Give the runs"),
        (["train", "read", "--resume", "first"], UsageError, "Give the runs"),
        (["train", "--resume", "read"], ConfigError, "no training"),
        (["train", "read", "--layers", "a-b"], UsageError, "--layers"),
        (["train", "read", "--k", "few"], UsageError, "--k"),
        (["train", "read", "--scale", "up"], UsageError, "--scale"),
        (["train", "read", "--arch", "topk", "--revive", "resample"], UsageError, "is for relu"),
        (["train", "read"], NotFoundError, "--validation"),
        (["train", "nothing"], NotFoundError, "nothing"),
        (["features", "gpt2", "--run", "read"], NotFoundError, "no autoencoder 'gpt2'"),
        (["features", "tinymath", "--run", "read"], UsageError, "ambiguous"),
        (["features", "tinymath-resid_post-2", "--run", "check", "--show", "96"], NotFoundError, "no feature 96"),
        (["rm", "read"], UsageError, "holds no autoencoder"),
    ],
)
def test_mistakes(lake: Path, arguments: list[str], kind: type[LakeError], says: str) -> None:
    with pytest.raises(kind, match=says):
        CliRunner().invoke(app, ["sae", *arguments, "--lake", str(lake)], catch_exceptions=False)


def test_layers_as_they_are_typed() -> None:
    wanted: dict[str | None, Any] = {None: [], "0-2": [0, 1, 2], "3,-1": [3, -1], "0-1,5": [0, 1, 5]}
    assert {text: layer_numbers(text) for text in wanted} == wanted


def test_rm_takes_the_run_with_it(tmp_path: Path) -> None:
    tinymath_lake(tmp_path, n=8)
    sae(tmp_path, *TRAIN)
    [first, second] = json.loads(sae(tmp_path, "list", "--json"))["saes"]
    gone = json.loads(sae(tmp_path, "rm", first["sae_id"], "--yes", "--now", "--json"))
    assert gone["saes"] == sorted([first["sae_id"], second["sae_id"]])
    assert json.loads(sae(tmp_path, "list", "--json")) == {"saes": [], "trainings": []}


def test_right_after_training_it_is_said_what_is_missing_and_then_found(tmp_path: Path) -> None:
    """The training is the newest run and has no features: those of the run that was encoded are meant."""
    tinymath_lake(tmp_path, n=8)
    sae(tmp_path, *TRAIN)
    asked = ("query", "feature_density", "--lake", str(tmp_path))
    early = CliRunner().invoke(app, [*asked, "--json"])
    assert json.loads(early.stdout) == [] and "`lake sae features SAE --run" in early.stderr
    name = json.loads(sae(tmp_path, "list", "--json"))["saes"][0]["sae_id"]
    sae(tmp_path, "features", name)  # the newest run with its vectors: `check`
    sae(tmp_path, *TRAIN, "--seeds", "7")  # again a training is the newest
    opened = tracelake.open(tmp_path)
    check = opened.resolve_run("check")
    stats = opened.scan("feature_stats").collect()
    assert set(stats["run_id"]) == {check} and set(stats["sae_id"]) == {name}
    rows = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    active = int(stats.sort("n_active")["feature"][-1])
    assert rows and {row["sae_id"] for row in rows} == {name}
    assert opened.query("feature_contexts", feature=active).height > 0
    assert opened.query("sae_training_curves").height > 0
    newest = opened.resolve_run("latest")
    wrong = CliRunner().invoke(app, [*asked, "--run", newest, "--json"])
    assert json.loads(wrong.stdout) == [] and check in wrong.stderr
    read = opened.resolve_run("read")
    with pytest.raises(ConfigError, match=f"trained on {read}"):
        opened.sae_features(name, newest)


def test_from_a_corpus_to_features(tmp_path: Path) -> None:
    given = ("--layers", "3", "--width", "64", "--k", "4", "--batch-size", "512")
    done = json.loads(sae(tmp_path, "run", "tinymath:train", "--tokens", "6000", *given, "--json"))
    [evaluated], [features] = done["evaluated"], done["features"]
    assert evaluated["metrics"]["split"] == "validation" and evaluated["metrics"]["ce_increase_nats"] is not None
    assert features["n_rows"]["feature_stats"] == 64 and features["run_id"] == done["run_id"] == evaluated["run_id"]
    # The newest run is the training, which has rows of its own nowhere: its autoencoders are what is meant.
    frontier = tracelake.open(tmp_path).query("sae_frontier")
    assert frontier["sae_id"].to_list() == [evaluated["sae_id"]]
    only = json.loads(sae(tmp_path, "run", done["run_id"], "--train-only", "--no-features", *given, "--json"))
    assert only["run_id"] == done["run_id"] and only["features"] == [] and len(only["evaluated"]) == 1
    many = ("--layers", "3", "--width", "512", "--k", "64", "--batch-size", "128", "--lr", "10")
    words = ("run", done["run_id"], "--train-only", "--no-features", "--tokens", "600", *many)
    poor = CliRunner().invoke(app, ["sae", *words, "--lake", str(tmp_path)])
    assert "explains less than the mean" in poor.stderr  # no rate for training
    with pytest.raises(UsageError, match="one of"):
        CliRunner().invoke(app, ["sae", "run", "x", "--extract-only", "--train-only"], catch_exceptions=False)
