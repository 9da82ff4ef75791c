"""The command line as a user meets it: results on stdout, messages on stderr, the right exit code, an intact lake."""

import csv
import errno
import io
import json
import re
from pathlib import Path

import polars as pl
import pytest

import tracelake
from tracelake import cli
from tracelake.collect.configuration.config import CollectConfig, resolve_config
from tracelake.lake import TABLES, Lake
from tracelake.queries.description import run_text

QUICK = ("--max-new-tokens", "4", "--keep", "tokens,layers,heads,activations:resid_post@-1")


class Result:
    """Exit code and both streams of one command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def lake_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Runs `lake ARGS` in this process through the same `main` that the console script calls."""

    def run(*arguments: object, stdin: str | None = None) -> Result:
        monkeypatch.setattr("sys.argv", ["lake", *map(str, arguments)])
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with one small graded run."""
    folder = tmp_path_factory.mktemp("filled")
    tracelake.collect(
        folder, dataset="tinymath:test", limit=3, samples=2, max_new_tokens=12, tag="first", keep=("tokens", "layers")
    )
    return folder


def untouched(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p.relative_to(folder)), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file())


def test_collect_prints_the_run_id_and_shows_the_run(lake_command, tmp_path: Path) -> None:
    done = lake_command("collect", "--prompt", "Two plus two is", *QUICK, "--lake", tmp_path, "--tag", "try")
    assert done.code == 0 and done.out.startswith("try-")
    assert "bytes per token" in done.err and "tokens/s" in done.err
    shown = json.loads(lake_command("show", "try", "--json", "--lake", tmp_path).out)
    assert shown["run"]["status"] == "complete" and shown["run"]["model"] == "tinymath"
    assert shown["tables"]["token_steps"]["n_rows"] == shown["run"]["n_tokens"]
    assert "resid_post" in lake_command("show", "--schema").out


def test_dry_run_writes_nothing(lake_command, tmp_path: Path) -> None:
    done = lake_command("collect", "--prompt", "Hello", "--dry-run", "--json", "--lake", tmp_path / "none")
    facts = json.loads(done.out)
    assert facts["n_sequences"] == 1 and facts["exact"] is False and facts["n_bytes"] > 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "keep", ["tokens", "tokens,layers", "tokens,layers,heads", "tokens,layers,heads,activations:resid_post"]
)
def test_dry_run_is_within_ten_percent_when_lengths_are_known(lake_command, tmp_path: Path, keep: str) -> None:
    options = ("--dataset", "tinymath:test", "--limit", 400, "--max-new-tokens", 0, "--keep", keep, "--batch-size", 32)
    told = json.loads(lake_command("collect", *options, "--dry-run", "--json").out)
    done = json.loads(lake_command("collect", *options, "--json", "--lake", tmp_path).out)
    assert told["exact"] and told["n_tokens"] == done["n_tokens"]
    assert told["n_bytes"] == pytest.approx(done["n_bytes"], rel=0.10)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--model", "no/such-model-here"), 3, "could not be loaded"),
        (("--model", "/no/such/folder"), 3, "could not be loaded"),
        (("--prompt", ""), 2, "empty"),
        (("--temperature", "nan"), 2, "temperature"),
        (("--temperature", "-1"), 2, "temperature"),
        (("--samples", "2", "--temperature", "0"), 2, "greedy"),
        (("--keep", "activations:resid_pots"), 4, "resid_post"),
        (("--keep", "activations:resid_post@99"), 4, "6 layers"),
        (("--keep", "tokenz"), 2, "tokens"),
        (("--keep", ""), 2, "--keep is empty"),
        (("--top-k", "5"), 2, "--temperature"),
        (("--min-p", "0.1", "--temperature", "0"), 2, "--min-p"),
        (("--prompts", "."), 2, "is a folder"),
        (("--given", "."), 2, "no ordinary file"),
        (("--keep", "activations:resid_post@5-2"), 2, "backwards"),
        (("--device", "cuda:7"), 4, "not available"),
        (("--prompt", "word " * 400), 4, "--on-long"),
        (("--prompts", "nowhere.jsonl"), 3, "nowhere.jsonl"),
        (("--dataset", "tinymath:tset"), 3, "test"),
        (("--modle", "gpt2"), 2, "--model"),
        (("--tag", "../../x"), 2, "tag"),
        (("--embed-scope", "window:0", "--keep", "embeddings"), 2, "window:N"),
        (("--max-new-tokens", "-3"), 2, "max-new-tokens"),
        (("--config", "nowhere.yaml"), 3, "nowhere.yaml"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_lake_alone(lake_command, filled: Path, arguments, code, says) -> None:
    before = untouched(filled)
    source = () if {"--prompt", "--prompts", "--dataset"} & set(arguments) else ("--prompt", "Hi")
    done = lake_command("collect", "--max-new-tokens", "2", *source, *arguments, "--lake", filled)
    assert done.code == code, done.err
    assert says in done.err
    assert done.out == ""
    assert untouched(filled) == before
    assert Lake.open(filled).verify("full").ok


def test_no_source_and_two_sources(lake_command, tmp_path: Path) -> None:
    assert lake_command("collect", "--lake", tmp_path / "x").code == 2
    both = lake_command("collect", "--prompt", "a", "--dataset", "tinymath:test", "--lake", tmp_path / "x")
    assert both.code == 2 and "--prompt and --dataset" in both.err
    assert not (tmp_path / "x").exists()


def test_empty_prompt_in_a_file_names_the_item(lake_command, tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "fine"}\n{"prompt": "  "}\n')
    done = lake_command("collect", "--prompts", file, "--lake", tmp_path / "x")
    assert done.code == 2 and "item 1" in done.err
    assert not (tmp_path / "x").exists()


def test_configuration_order_and_unknown_keys(lake_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("prompt: [Hello]\nseed: 1\nmax_new_tokens: 2\nbatch_size: 3\nkeep: [tokens]\n")
    monkeypatch.setenv("TRACELAKE_SEED", "2")
    monkeypatch.setenv("TRACELAKE_BATCH_SIZE", "4")
    lake_command("collect", "--config", file, "--batch-size", "5", "--lake", tmp_path / "l")
    config = Lake.open(tmp_path / "l").run_json("latest")["config"]
    assert (config["max_new_tokens"], config["seed"], config["batch_size"]) == (2, 2, 5)
    file.write_text("promt: [Hello]\n")
    done = lake_command("collect", "--config", file, "--lake", tmp_path / "l")
    assert done.code == 4 and "prompt" in done.err
    file.write_text("temperature: -3\n")
    done = lake_command("collect", "--config", file, "--prompt", "a", "--lake", tmp_path / "l")
    assert done.code == 4 and f"{file}: temperature" in done.err and "--temperature" not in done.err
    done = lake_command("collect", "--config", file, "--prompt", "a", "--temperature", "-2", "--lake", tmp_path / "l")
    assert done.code == 2 and "--temperature" in done.err


def test_a_run_that_does_not_fit_leaves_no_lake(lake_command, tmp_path: Path) -> None:
    options = ("--dataset", "tinymath:test", "--samples", "100000", "--max-new-tokens", "400")
    done = lake_command("collect", *options, "--lake", tmp_path / "l")
    assert done.code == 8 and "are free" in done.err
    assert not (tmp_path / "l").exists()


def test_a_complete_run_is_resumed_with_nothing_else(lake_command, filled: Path) -> None:
    assert lake_command("collect", "--resume", "latest", "--lake", filled).code == 0
    for option in (("--samples", "5"), ("--keep", "tokens"), ("--prompt", "b")):
        done = lake_command("collect", "--resume", "latest", *option, "--lake", filled)
        assert done.code == 2 and option[0] in done.err


def test_every_site_can_be_estimated(lake_command, tmp_path: Path) -> None:
    options = ("--prompt", "a", "--max-new-tokens", "3", "--keep", "activations:all", "--json")
    told = json.loads(lake_command("collect", *options, "--lake", tmp_path, "--dry-run").out)
    done = json.loads(lake_command("collect", *options, "--lake", tmp_path / "l").out)
    assert done["n_bytes"] <= told["n_bytes"] <= 1.5 * done["n_bytes"]


def test_long_names_are_parted_from_their_values(lake_command, filled: Path) -> None:
    assert "edge_cap_generated  5" in lake_command("show", "latest", "--lake", filled).out
    bare = {"run": {"run_id": "r", "config": None}, "tables": {}, "unmeasured": {}}
    assert run_text(bare).startswith("run_id ")


def test_the_bound_of_a_packed_corpus_is_one(lake_command, tmp_path: Path) -> None:
    options = ("--corpus", "tinymath:test", "--tokens", "5000", "--pack", "128", "--keep", "layers", "--json")
    told = json.loads(lake_command("collect", *options, "--lake", tmp_path, "--dry-run").out)
    done = json.loads(lake_command("collect", *options, "--lake", tmp_path / "l").out)
    assert not told["exact"] and done["n_bytes"] <= told["n_bytes"] <= 1.5 * done["n_bytes"]


def test_a_file_is_no_lake(lake_command, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    done = lake_command("runs", "--lake", tmp_path / "f")
    assert done.code == 3 and "a file" in done.err and "makes one" not in done.err


@pytest.mark.parametrize(
    ("name", "value", "code", "says"),
    [
        ("TRACELAKE_BATCHSIZE", "4", 4, "TRACELAKE_BATCH_SIZE"),
        ("TRACELAKE_SEED", "x", 4, "TRACELAKE_SEED"),
        ("TRACELAKE_TRUST_REMOTE_CODE", "1", 4, "only allowed as an option"),
    ],
)
def test_environment_variables_that_do_not_exist_are_errors(
    lake_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: int, says: str
) -> None:
    monkeypatch.setenv(name, value)
    done = lake_command("collect", "--prompt", "a", "--lake", tmp_path / "l")
    assert done.code == code and says in done.err
    assert not (tmp_path / "l").exists()


def test_the_programs_other_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "TRACELAKE_LAKE": "x",
        "TRACELAKE_PUSHGATEWAY_USER": "me",
        "TRACELAKE_SEED": "3",
        "TRACELAKE_TAG": "",
        "A": "b",
    }
    assert resolve_config({"prompt": "a"}, environ=given).seed == 3


def test_help_has_every_option_under_a_heading_with_its_default(lake_command) -> None:
    text = lake_command("collect", "--help").out
    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    named = ["Model", "Prompts", "A corpus", "Stored sequences", "Decoding", "What is kept", "The run", "This call"]
    assert headings == named
    options = set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))
    named = {"observe_prompt": "--prompt-telemetry", "continue_run": "--continue"}
    assert {named.get(name, f"--{name.replace('_', '-')}") for name in CollectConfig.model_fields} <= options
    words = " ".join(text.split())
    assert "Most tokens to generate per sequence; 0 reads only. [default: 128]" in words
    assert "--chat auto|on|off" in words and "[default: tokens,layers,heads,activations:resid_post]" in words


def test_prompt_files_of_every_kind_give_the_same_rows(lake_command, tmp_path: Path) -> None:
    items = [{"id": "a", "prompt": "One", "answer": "1"}, {"id": "b", "prompt": "Two, or", "answer": "2"}]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    pl.DataFrame(items).write_parquet(tmp_path / "p.parquet")
    with (tmp_path / "p.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "prompt", "answer"])
        writer.writeheader()
        writer.writerows(items)
    (tmp_path / "p.txt").write_text("One\nTwo, or\n")
    seen = {}
    for kind in ("jsonl", "parquet", "csv", "txt"):
        run = lake_command("collect", "--prompts", tmp_path / f"p.{kind}", *QUICK, "--lake", tmp_path / "l").out.strip()
        seen[kind] = tracelake.open(tmp_path / "l").sql(
            f"select item_id, prompt, prompt_id, answer, completion, correct from sequences where run_id = '{run}' "
            "order by sequence_id"
        )
    assert seen["jsonl"].equals(seen["parquet"]) and seen["jsonl"].equals(seen["csv"])
    assert seen["txt"]["prompt_id"].equals(seen["csv"]["prompt_id"]) and seen["txt"]["correct"].null_count() == 2
    assert seen["jsonl"]["item_id"].to_list() == ["a", "b"] and seen["jsonl"]["correct"].null_count() == 0


def test_sql_formats_sources_and_errors(lake_command, filled: Path, tmp_path: Path) -> None:
    count = "select count(*) as n, max(position) as p, list(distinct is_prompt) as l from token_steps"
    assert json.loads(lake_command("sql", count, "--json", "--lake", filled).out)[0]["n"] > 0
    for form in ("csv", "jsonl", "table", "json"):
        assert "n" in lake_command("sql", count, "--format", form, "--lake", filled).out
    piped = lake_command("sql", "-", "--format", "csv", "--lake", filled, stdin="select 1 as one")
    assert piped.out.splitlines() == ["one", "1"]
    target = tmp_path / "out.parquet"
    lake_command("sql", "from sequences", "--format", "parquet", "-o", target, "--lake", filled)
    assert pl.read_parquet(target).height == 6
    for query, code, says in [
        ("select * from token_stepz", 3, "token_steps"),
        ("select tokn from token_steps", 3, "token"),
        ("selct 1", 2, "syntax"),
        ("select 1; select 2", 2, "one SELECT"),
        ("drop table runs", 2, "SELECT"),
        ("select * from read_csv('/etc/passwd')", 2, ""),
    ]:
        done = lake_command("sql", query, "--lake", filled)
        assert done.code == code and says in done.err, (query, done.code, done.err)
        assert done.out == ""
    assert lake_command("sql", "select 1", "--format", "xml", "--lake", filled).code == 2


def test_describe_and_show_tables_explain_everything(lake_command, filled: Path) -> None:
    with tracelake.open(filled).connect(locked=True) as connection:
        for table in TABLES.values():
            rows = connection.arrow(f"describe {table.name}").to_pylist()
            texts = {row["column_name"]: row["comment"] for row in rows}
            assert list(texts) == table.names
            assert all(column.doc in texts[column.name] for column in table.columns)
    said = json.loads(lake_command("sql", "describe token_steps", "--json", "--lake", filled).out)
    assert all(column.doc in row["comment"] for column, row in zip(TABLES["token_steps"].columns, said, strict=True))
    listed = json.loads(lake_command("sql", "SHOW TABLES;", "--json", "--lake", filled).out)
    assert {row["name"] for row in listed} >= {*TABLES, "predictions"}
    assert all(row["comment"] for row in listed)


def test_missing_things_say_what_exists(lake_command, filled: Path, tmp_path: Path) -> None:
    assert lake_command("runs", "--lake", tmp_path / "none").code == 3
    unknown = lake_command("show", "frist", "--lake", filled)
    assert unknown.code == 3 and "first" in unknown.err
    misspelt = lake_command("query", "surprisal_trce", "--lake", filled)
    assert misspelt.code == 3 and "surprisal_trace" in misspelt.err
    assert lake_command("query", "surprisal_trace", "--param", "sequnce=1", "--lake", filled).code == 2
    assert lake_command("chart", "surprisal_trace", "-o", tmp_path / "x.gif", "--lake", filled).code == 2
    assert lake_command("collect", "--resume", "nothing", "--lake", filled).code == 3
    question = lake_command("analyze", "varaince", "--lake", filled)
    assert question.code == 2 and "Did you mean 'variance'?" in question.err


def test_query_and_chart(lake_command, filled: Path, tmp_path: Path) -> None:
    assert len(json.loads(lake_command("query", "--json", "--lake", filled).out)) >= 12
    rows = json.loads(lake_command("query", "surprisal_trace", "--run", "first", "--json", "--lake", filled).out)
    assert rows[0]["position"] == 1 and rows[0]["surprisal_bits"] > 0
    for suffix in ("png", "svg", "html", "json"):
        target = tmp_path / f"c.{suffix}"
        assert lake_command("chart", "surprisal_trace", "-o", target, "--lake", filled).code == 0
        assert target.stat().st_size > 1000


def test_unwritable_newer_and_damaged_lakes(lake_command, filled: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert lake_command("collect", "--prompt", "a", "--lake", tmp_path / "file" / "lake").code == 4
    newer = tmp_path / "newer"
    Lake.create(newer)
    about = json.loads((newer / "lake.json").read_text())
    (newer / "lake.json").write_text(json.dumps({**about, "format_version": 999}))
    assert lake_command("runs", "--lake", newer).code == 9
    assert lake_command("collect", "--prompt", "a", "--lake", newer).code == 9
    damaged = tmp_path / "damaged"
    run = tracelake.collect(damaged, prompt="a b c", max_new_tokens=2, keep=("tokens",)).run_id
    assert lake_command("verify", "--lake", damaged).code == 0
    file = next(damaged.glob("data/token_steps/**/*.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 0xFF
    file.write_bytes(bytes(content))
    found = lake_command("verify", "--lake", damaged)
    assert found.code == 6 and run in found.out
    file.write_bytes(b"PAR1")
    broken = lake_command("sql", "select count(token) from token_steps", "--lake", damaged)
    assert broken.code == 6 and "verify" in broken.err


def test_a_disk_that_fills_keeps_what_is_committed(
    lake_command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tracelake.lake.storage.disk import Disk

    rename, calls = Disk.rename, []

    def full(self: Disk, source: str, target: str) -> None:
        calls.extend([target] if target.endswith(".parquet") else [])
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(self, source, target)

    monkeypatch.setattr(Disk, "rename", full)
    options = ("--prompt", "a", "--prompt", "b", "--prompt", "c", "--segment-items", "1", "--keep", "tokens")
    done = lake_command("collect", *options, "--max-new-tokens", "2", "--lake", tmp_path)
    assert done.code == 8 and "resume" in done.err
    monkeypatch.setattr(Disk, "rename", rename)
    lake = Lake.open(tmp_path)
    assert lake.verify("deep").ok and 0 < lake.sql("select count(*) from sequences").item() < 3
    assert lake_command("collect", "--resume", "latest", "--lake", tmp_path).code == 0
    assert lake.sql("select count(*) from sequences").item() == 3


def test_rm_and_vacuum(lake_command, tmp_path: Path) -> None:
    tracelake.collect(tmp_path, prompt="a", max_new_tokens=1, keep=("tokens",), tag="gone")
    assert "would remove" in lake_command("rm", "gone", "--lake", tmp_path).out
    assert Lake.open(tmp_path).sql("select count(*) from token_steps").item() > 0
    assert lake_command("rm", "gone", "--yes", "--lake", tmp_path).code == 0
    assert Lake.open(tmp_path).sql("select count(*) from token_steps").item() == 0
    assert lake_command("vacuum", "--older-than", "0", "--yes", "--lake", tmp_path).code == 0
    assert not list(tmp_path.rglob("*.parquet*"))
