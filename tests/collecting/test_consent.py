"""A lake cannot consent for whoever resumes its runs: what reaches outside is typed again, or nothing runs."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tracelake.collect.configuration.config import CollectConfig
from tracelake.collect.running.collector import Callbacks, Collection, resume_run
from tracelake.collect.running.planning.consent import HARMLESS, WITHOUT_REACH, consented, resume_command
from tracelake.lake import Lake
from tracelake.lake.errors import ConfigError, StoppedError, UsageError

WITH_REACH = {
    "model": "/elsewhere/model",
    "revision": "refs/pr/5",
    "trust_remote_code": True,
    "prompts": "/etc/passwd",
    "dataset": "somebody/data:train",
    "dataset_path": "/elsewhere/problems",
    "prompt_template": "/elsewhere/template",
    "corpus": "hf:somebody/data",
    "device": "cuda:1",
    "attn_implementation": "somebody/kernels",
    "embedder": "/elsewhere/embedder",
    "given": "/elsewhere/given.jsonl",
    "edit": ("add:resid_post@3:direction=/elsewhere/direction.npy",),
}


def test_every_setting_is_known_to_reach_outside_or_not():
    assert set(CollectConfig.model_fields) <= WITHOUT_REACH | set(WITH_REACH), "decide which it is in consent.py"
    assert not WITHOUT_REACH & set(WITH_REACH) and set(HARMLESS) <= set(WITH_REACH)


@pytest.mark.parametrize("name", WITH_REACH)
def test_each_setting_with_reach_must_be_typed(name):
    plain = CollectConfig(corpus="tinymath") if name == "corpus" else CollectConfig(prompt=("p",))
    stored = {**plain.model_dump(mode="json"), name: WITH_REACH[name]}
    with pytest.raises(UsageError) as asked:
        consented("a-run", stored, {})
    option = f"--{name.replace('_', '-')}"
    assert option in str(asked.value)
    assert str(asked.value).split("type: ")[1].startswith(f"lake collect --resume a-run {option}")
    assert getattr(consented("a-run", stored, {name: WITH_REACH[name]}), name) == WITH_REACH[name]
    if name not in ("model", "device"):
        with pytest.raises(UsageError):
            consented("a-run", stored, {name: "another"})


def test_a_run_without_reach_needs_nothing_and_takes_nothing_else():
    stored = CollectConfig(prompt=("p",), seed=3).model_dump(mode="json")
    assert consented("a-run", stored, {"max_bytes": 5}) == CollectConfig(prompt=("p",), seed=3, max_bytes=5)
    for typed in ({"seed": 4}, {"keep": ("tokens",)}, {"trust_remote_code": True}, {"embedder": "x"}):
        with pytest.raises(UsageError):
            consented("a-run", stored, typed)


def test_a_setting_of_a_later_version_is_no_consent_either():
    stored = {**CollectConfig(prompt=("p",)).model_dump(mode="json"), "hook_command": "rm -rf ~"}
    with pytest.raises(UsageError, match="--hook-command"):
        consented("a-run", stored, {})
    for nonsense in (None, [], "x", {"prompt": 3}, {"samples": "many"}, {"keep": {"a": 1}}):
        with pytest.raises((ConfigError, UsageError)):
            consented("a-run", nonsense, {})


def test_the_command_is_safe_to_paste():
    command = resume_command("a-run", {"model": "x; rm -rf ~ '$(y)'", "seed": 3, "device": "auto"})
    import shlex

    assert shlex.split(command) == ["lake", "collect", "--resume", "a-run", "--model", "x; rm -rf ~ '$(y)'"]


def stopped_run(lake: Lake, **settings: object) -> str:
    done: list[int] = []
    callbacks = Callbacks(lambda p: done.append(p.segments_done), should_stop=lambda: bool(done) and done[-1] >= 1)
    config = CollectConfig(**{"prompt": ("one", "two", "three"), "max_new_tokens": 2, "segment_items": 1} | settings)
    with pytest.raises(StoppedError) as stop:
        Collection(config, callbacks).start(lake)
    assert resume_command(lake.resolve_run("latest"), dict(config)) in str(stop.value)
    return lake.resolve_run("latest")


def test_code_of_a_received_model_does_not_run(model_folder, tmp_path: Path):
    """A lake whose run.json asks for a model with code: nothing is loaded before it is typed."""
    folder = Path(shutil.copytree(model_folder("gpt2"), tmp_path / "model"))
    lake = Lake.create(tmp_path / "lake")
    run_id = stopped_run(lake, model=str(folder))
    marker = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    path = lake.path / "_runs" / run_id / "run.json"
    about = json.loads(path.read_text())
    about["config"]["trust_remote_code"] = True
    # A forger makes the records fit run.json; here it is enough to look at the one who resumes.
    forged = Lake(tmp_path / "lake")
    forged.run_json = lambda run: about  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="--trust-remote-code.*only if you trust"):
        resume_run(forged, run_id)
    with pytest.raises(UsageError, match="--trust-remote-code"):
        resume_run(forged, run_id, model=str(folder))
    assert not marker.exists()
    assert lake.run_status(run_id) == "interrupted"


def test_a_run_that_was_begun_here_needs_nothing_typed_again(model_folder, tmp_path: Path, monkeypatch):
    """What was typed here was consent. On another machine, or with another run.json, there is none."""
    lake = Lake.create(tmp_path / "lake")
    run_id = stopped_run(lake, model=str(model_folder("gpt2")))
    begun_here = Path(os.environ["XDG_STATE_HOME"])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    with pytest.raises(UsageError, match="--model"):
        resume_run(lake, run_id)
    monkeypatch.setenv("XDG_STATE_HOME", str(begun_here))
    edited = Lake(tmp_path / "lake")
    about = json.loads(json.dumps(lake.run_json(run_id)))
    about["config"]["embedder"] = "/elsewhere/embedder"
    edited.run_json = lambda run: about  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="--embedder"):
        resume_run(edited, run_id)
    n_begun = len(list(begun_here.rglob("begun/*")))
    assert resume_run(lake, run_id) is not None
    assert lake.run_status(run_id) == "complete"
    assert len(list(begun_here.rglob("begun/*"))) == n_begun - 1, "a finished run is not remembered"


def test_a_model_that_has_moved_is_named_where_it_is_now(model_folder, tmp_path: Path, monkeypatch):
    folder = Path(shutil.copytree(model_folder("gpt2"), tmp_path / "model"))
    lake = Lake.create(tmp_path / "lake")
    run_id = stopped_run(lake, model=str(folder))
    moved = folder.rename(tmp_path / "moved")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
    with pytest.raises(UsageError, match=f"lake collect --resume {run_id} --model"):
        resume_run(lake, run_id)
    assert resume_run(lake, run_id, model=str(moved)) is not None
    assert lake.run_status(run_id) == "complete"
