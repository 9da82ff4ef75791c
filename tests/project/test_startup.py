"""What a command loads before it answers: an import that is not needed is time that every call takes.

Nothing is timed here: `benchmarks/storing/startup.py` does. A module is named where it was once loaded for nothing, or
would take longer than the answer.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tracelake import OpenLake
from tracelake.lake import Lake
from tracelake.lake.errors import LakeError

MODELS = {"torch", "transformers", "sentence_transformers"}
NUMBERS = {"umap", "ripser", "sklearn", "scipy", "altair"}
ROWS = {"pandas", "polars", "pyarrow", "numpy", "fsspec"}
VALUES = {"pydantic", "rich", "yaml"}
SQL = {"duckdb"}
RUN = "import sys\nsys.argv = {words!r}\nfrom tracelake.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
SAY = "    print('ENDED', end.code, *sys.modules)\n"
HELP = {"lake": ["--help"], "no words": [], "version": ["--version"], "a typo": ["sqll"]}


def _loaded(*words: str, code: int = 0, variables: dict[str, str] | None = None) -> set[str]:
    """Modules, whole and by their first word, that are loaded when `lake WORDS` ends with this exit code."""
    result = subprocess.run(
        [sys.executable, "-c", RUN.format(words=["lake", *words]) + SAY],
        capture_output=True,
        text=True,
        env={**os.environ, **(variables or {})},
        timeout=120,
    )
    ended, *names = result.stdout.rpartition("ENDED ")[2].split()
    assert ended == str(code), result.stderr
    assert "leaked" not in result.stderr
    return {*names, *(name.partition(".")[0] for name in names)}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with one run."""
    folder = tmp_path_factory.mktemp("startup") / "lake"
    with Lake.create(folder).start_run("one-run", {"tag": "t", "kind": "generate"}) as run:
        with run.segment(0, (0, 1)) as segment:
            segment.append("sequences", {"sequence_id": [0], "prompt": "p"})
        run.finish()
    return folder


def test_what_must_not_be_loaded_could_be() -> None:
    """A module that is not installed would be missed in silence."""
    modules = MODELS | NUMBERS | ROWS | VALUES | SQL
    assert {name for name in modules if importlib.util.find_spec(name) is None} == set()
    code = "import sys, pyarrow\npyarrow.array([1])\nprint('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


@pytest.mark.parametrize("asked", HELP)
def test_the_list_of_verbs_imports_no_verb(asked: str) -> None:
    loaded = _loaded(*HELP[asked], code=0 if asked in ("lake", "version") else 2)
    assert not loaded & (MODELS | NUMBERS | ROWS | VALUES | SQL)
    commands = {name for name in loaded if name.startswith("tracelake.commands.") and ".toolkit" not in name}
    assert commands == {"tracelake.commands.terminal", "tracelake.commands.verbs"}
    assert "tracelake.lake.lake" not in loaded


@pytest.mark.parametrize("line", ["lake s", "lake sql --fo"])
def test_completion_imports_no_verb_but_the_one_that_is_typed(line: str) -> None:
    words = {"_LAKE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    loaded = _loaded(variables=words)
    assert not loaded & (MODELS | NUMBERS | ROWS | VALUES | SQL)
    verbs = {"tracelake.commands.ask"} if "sql" in line else set()
    assert {name for name in loaded if name in ("tracelake.commands.ask", "tracelake.commands.exchange")} == verbs


def test_a_statement_without_a_table_loads_duckdb_only(lake: Path) -> None:
    loaded = _loaded("sql", "select 1", "--lake", str(lake))
    assert SQL <= loaded
    assert not loaded & (MODELS | NUMBERS | ROWS | VALUES)


def test_a_count_loads_no_arrow(lake: Path) -> None:
    loaded = _loaded("sql", "select count(*) from token_steps", "--lake", str(lake))
    assert not loaded & (MODELS | NUMBERS | ROWS - {"fsspec"} | VALUES)


@pytest.mark.parametrize("words", [["runs"], ["runs", "--json"], ["show", "latest"]])
def test_runs_are_listed_without_duckdb(words: list[str], lake: Path) -> None:
    assert not _loaded(*words, "--lake", str(lake)) & (MODELS | NUMBERS | ROWS | VALUES | SQL)


@pytest.mark.parametrize("words", [["query", "run_overview"], ["query"], ["verify"], ["metrics"]])
def test_other_verbs_load_no_pandas_and_leave_nothing_behind(words: list[str], lake: Path) -> None:
    assert not _loaded(*words, "--lake", str(lake)) & (MODELS | NUMBERS | {"pandas", "polars"})


def test_rows_of_any_type_load_no_pandas(lake: Path) -> None:
    loaded = _loaded("sql", "select created_at from runs", "--lake", str(lake))
    assert "pyarrow" in loaded
    assert not loaded & (MODELS | NUMBERS | VALUES | {"pandas", "polars"})
    assert "pandas" not in _loaded("sae", "list", "--lake", str(lake))


def test_an_estimate_loads_no_pandas_polars_or_duckdb(tmp_path: Path) -> None:
    loaded = _loaded("collect", "--prompt", "What is 2+3?", "--dry-run", "--lake", str(tmp_path / "none"))
    assert {"torch", "tracelake.collect.running.collector"} <= loaded
    assert "pandas.core" not in loaded  # transformers looks whether there is a pandas, and imports none
    assert not loaded & {"pandas", "polars", "duckdb", "sentence_transformers", "umap", "ripser", "sklearn", "altair"}
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--promt", "x"], 2),
        (["--prompt", "x", "--keep", "layrs"], 2),
        (["--prompt", "x", "--keep", "activations:resid_pst"], 4),
        (["--prompt", "x", "--dtype", "float33"], 2),
        (["--prompt", "x", "--stop-when", "entropy"], 2),
        (["--prompt", "x", "--edit", "zap"], 2),
        (["--prompt", "x", "--model", "no/such/folder"], 3),
        (["--prompts", "no-such-file"], 3),
        (["--resume", "no-such-run"], 3),
    ],
)
def test_a_mistake_is_answered_before_a_model_library_is_loaded(words: list[str], code: int, lake: Path) -> None:
    loaded = _loaded("collect", *words, "--lake", str(lake), code=code)
    assert not loaded & (MODELS | NUMBERS | {"pandas", "polars", "pyarrow", "duckdb"})


def test_a_statement_without_a_table_reads_no_record(lake: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(lake, tmp_path / "lake"))
    (folder / "_runs" / "one-run" / "run.json").write_text("no JSON", encoding="utf-8")
    opened = OpenLake.open(folder)
    assert opened.sql("select 1 as one")["one"].item() == 1
    for statement in ("select count(*) from runs", "select count(*) from token_steps", "show tables"):
        with pytest.raises(LakeError, match="no JSON"):
            opened.sql(statement)
    with pytest.raises(LakeError, match="no JSON"):
        opened.connect(locked=True)
