"""What cannot be imported is refused with a sentence that says why, and the lake stays as it was."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corevital_reports import report, truth, written
from imported_reports import imported
from lake_command import files, lake_command
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.lake.errors import NotFoundError, UsageError
from tracelake.lake.exchange.corevital import report as report_module
from tracelake.lake.exchange.corevital.imports import ImportSettings, check_reports, import_reports
from tracelake.lake.lake import Lake

Report = dict[str, Any]


def good() -> Report:
    return report(truth(1), "0.3")


def at(*path: Any, value: Any) -> Callable[[Report], None]:
    """A change deep in a report."""

    def change(found: Any) -> None:
        for part in path[:-1]:
            found = found[part]
        found[path[-1]] = value

    return change


def without(*path: Any) -> Callable[[Report], None]:
    def change(found: Any) -> None:
        for part in path[:-1]:
            found = found[part]
        del found[path[-1]]

    return change


EDGES = ("prompt_analysis", "layers", 0, "heads", 0)
BAD: dict[str, tuple[Callable[[Report], None], str]] = {
    "no version": (without("schema_version"), "schema_version is none"),
    "version of no text": (at("schema_version", value=0.3), "schema_version is 0.3"),
    "older": (at("schema_version", value="0.1.0"), "'0.1.0'; reports of versions 0.2, 0.3, 0.4, 0.5"),
    "newer": (at("schema_version", value="1.0.0"), "'1.0.0'"),
    "nearly": (at("schema_version", value="0.30.0"), "'0.30.0'"),
    "no model": (without("model"), "model: Field required"),
    "no layers at all": (at("model", "num_layers", value=0), "model.num_layers"),
    "many layers": (at("model", "num_layers", value=10**12), "model.num_layers"),
    "text for a number": (
        at("timeline", 2, "logits_summary", "entropy", value="2.5"),
        "timeline.2.logits_summary.entropy",
    ),
    "truth for a number": (at("timeline", 2, "step_index", value=True), "timeline.2.step_index"),
    "fraction for an index": (at("timeline", 2, "step_index", value=7.0), "timeline.2.step_index"),
    "object for a list": (at("timeline", value={}), "timeline: Input should be a valid list"),
    "huge id": (at("prompt", "token_ids", 0, value=2**31), "prompt.token_ids.0"),
    "negative id": (at("generated", "token_ids", 0, value=-1), "generated.token_ids.0"),
    "no prompt tokens": (at("prompt", "token_ids", value=[]), "prompt.token_ids"),
    "step twice": (at("timeline", 3, "step_index", value=7), "timeline.3.step_index is 7"),
    "step before the prompt's end": (at("timeline", 0, "step_index", value=0), "timeline.0.step_index is 0"),
    "step behind the end": (at("timeline", 11, "step_index", value=17), "timeline.11.step_index is 17"),
    "another token": (at("timeline", 1, "token", "token_id", value=39), "timeline.1 has token 39"),
    "layer twice": (at("timeline", 0, "layers", 1, "layer_index", value=0), "timeline.0.layers has the indexes"),
    "layer too deep": (at("timeline", 0, "layers", 1, "layer_index", value=6), "the model has 6 layers"),
    "edge outside": (at(*EDGES, "key_indices", 0, value=5), "outside the prompt"),
    "edges of two lengths": (at(*EDGES, "weights", value=[]), "lists of different lengths"),
    "too many heads": (
        at("prompt_analysis", "layers", 0, "basin_scores", value=[0.1] * 5),
        "more than the model's 4 heads",
    ),
    "too many surprisals": (at("prompt_analysis", "prompt_surprisals", value=[1.0] * 5), "5 prompt surprisals"),
    "a count below zero": (
        at("timeline", 0, "layers", 0, "attention_summary", "collapsed_head_count", value=-1),
        "collapsed_head_count",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_report_is_named_with_its_fault(tmp_path: Path, name: str) -> None:
    change, message = BAD[name]
    found = good()
    change(found)
    (path,) = written(tmp_path, found)
    with pytest.raises(UsageError) as caught:
        check_reports([path], ImportSettings())
    assert message in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        json.dumps(report(truth(1), "0.3")).encode()[:-200],
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"schema_version": "0.3.0", "x": "\\ud800"}',
    ],
    ids=["empty", "text", "binary", "cut short", "deep list", "deep object", "half a surrogate"],
)
def test_what_is_no_json_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"trace\.json is no JSON, or was cut short"):
        check_reports([path], ImportSettings())


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null"])
def test_json_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="a CoreVital report is an object"):
        check_reports([path], ImportSettings())


def test_a_huge_file_is_refused_without_reading_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "MAX_BYTES", 1 << 20)
    path = tmp_path / "trace.json"
    with path.open("wb") as file:
        file.truncate(1 << 34)  # sparse: 16 GiB of zeros
    with pytest.raises(UsageError, match="more than 1 MiB"):
        check_reports([path], ImportSettings())


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no file"):
        check_reports([tmp_path / "none.json"], ImportSettings())
    with pytest.raises(UsageError, match="cannot be read"):
        check_reports([tmp_path], ImportSettings())


def test_one_bad_report_among_good_ones_leaves_the_lake_as_it_was(tmp_path: Path) -> None:
    first, second, bad = (report(truth(seed), "0.3") for seed in (1, 2, 3))
    bad["timeline"][5]["step_index"] = 0
    paths = written(tmp_path, first, second, bad)
    lake = tmp_path / "lake"
    code, message = lake_command("import", "corevital", *map(str, paths), "--lake", str(lake))
    assert code == 2 and paths[2].name in message
    assert not lake.exists()  # not even an empty lake is made
    imported(lake, paths[0])
    before = files(lake)
    assert lake_command("import", "corevital", *map(str, paths[1:]), "--lake", str(lake))[0] == 2
    assert files(lake) == before


def test_a_trace_is_imported_once(tmp_path: Path) -> None:
    first, second = written(tmp_path, report(truth(1), "0.3"), report(truth(2), "0.3"))
    lake = tmp_path / "lake"
    (run_id,) = imported(lake, first)
    before = files(lake)
    with pytest.raises(UsageError, match=f"imported already, as run {run_id}"):
        imported(lake, first, second)
    assert files(lake) == before
    assert len(imported(lake, first, second, new_only=True)) == 1
    assert imported(lake, first, second, new_only=True) == []
    imported(lake, first, again=True)
    assert tracelake.open(lake).sql("SELECT n_sequences FROM runs ORDER BY created_at")["n_sequences"].to_list() == [
        1,
        1,
        1,
    ]


def test_a_removed_run_may_be_imported_again(tmp_path: Path) -> None:
    (path,) = written(tmp_path, good())
    (run_id,) = imported(tmp_path / "lake", path)
    tracelake.open(tmp_path / "lake").remove(run_id, dry_run=False)
    assert imported(tmp_path / "lake", path) != [run_id]


def test_the_same_trace_twice_in_one_call(tmp_path: Path) -> None:
    (path,) = written(tmp_path, good())
    copy = tmp_path / "copy.json"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="are both the trace"):
        imported(tmp_path / "lake", path, copy)


def test_a_report_that_changes_while_it_is_imported(tmp_path: Path) -> None:
    (path,) = written(tmp_path, good())
    checked = check_reports([path], ImportSettings())
    path.write_text(json.dumps(good(), indent=1), encoding="utf-8")
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(UsageError, match="was changed while it was imported"):
        import_reports(lake, checked, ImportSettings())
    opened = tracelake.open(lake.path)
    assert opened.sql("SELECT count(*) FROM sequences").item() == 0
    assert opened.sql("SELECT count(*) FROM runs WHERE status <> 'removed'").item() == 0
    assert opened.verify(level="deep").ok


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    found = good()
    evil = "'; DROP TABLE runs; --</script>\x00\u202e"
    found["prompt"]["text"] = found["model"]["hf_id"] = found["timeline"][0]["token"]["token_text"] = evil
    found["extensions"] = {"rag": {"retrieved_doc_titles": [evil], "score": float("nan")}}
    (path,) = written(tmp_path, found)
    imported(tmp_path / "lake", path)
    lake = tracelake.open(tmp_path / "lake")
    assert lake.sql("SELECT prompt FROM sequences").item() == evil
    assert lake.sql("SELECT model FROM runs").item() == evil
    assert lake.sql("SELECT token FROM token_steps WHERE step = 0").item() == evil
    rag = json.loads(lake.sql("SELECT metadata FROM sequences").item())["extensions"]["rag"]
    assert rag == {"retrieved_doc_titles": [evil], "score": None}


def test_command_line(tmp_path: Path) -> None:
    paths = written(tmp_path, report(truth(1), "0.3"), report(truth(2), "0.5", loop=True))
    lake = ("--lake", str(tmp_path / "lake"))
    result = CliRunner().invoke(app, ["import", "corevital", *map(str, paths), "--tag", "old-traces", "--json", *lake])
    assert result.exit_code == 0
    (run,) = json.loads(result.stdout)["runs"]
    assert run["run_id"].startswith("old-traces-") and (run["n_sequences"], run["n_tokens"]) == (2, 34)
    shown = CliRunner().invoke(app, ["query", "health", "--param", "profile=v0.5", "--json", *lake])
    assert shown.exit_code == 0 and '"repetition_loop": true' in shown.stdout
    for arguments, message in (
        (("--first-layer", "second"), "auto, embeddings, block"),
        (("--tag", "No Tag"), "a tag begins with a letter"),
    ):
        code, text = lake_command("import", "corevital", str(paths[0]), *arguments, *lake)
        assert code == 2 and message in text
    assert lake_command("import", "corevital", os.devnull, *lake)[0] == 2
