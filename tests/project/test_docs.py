"""Pages cannot lie: generated ones are current, every command shown runs, every name shown exists."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

import tracelake
from tracelake.cli import app
from tracelake.collect.configuration.config import CollectConfig, resolve_config
from tracelake.lake.schema import TABLES
from tracelake.queries.derived_views import views
from tracelake.queries.saved_query import saved_queries

ROOT = Path(tracelake.__file__).parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate, tour = _script(ROOT / "docs" / "generate.py"), _script(ROOT / "docs" / "tour.py")


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


PAGE_NAMES = ("cli.md", "schema.md", "queries.md")


# -- generated pages ---------------------------------------------------------------------------------------------------


def test_generated_pages_are_current() -> None:
    assert not generate.outdated(), "run `make docs`"


def test_the_comparison_notices_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "pages", lambda: {"cli.md": generate.cli_page().replace("`128`", "`127`")})
    assert [path.name for path in generate.outdated()] == ["cli.md"]


def test_everything_has_its_place() -> None:
    headings = {page: set(re.findall(r"^## (.+)$", _text(f"docs/{page}"), re.MULTILINE)) for page in PAGE_NAMES}
    assert {f"lake {name}" for name in generate.commands()} <= headings["cli.md"]
    assert headings["schema.md"] == {*TABLES, *views()}
    assert headings["queries.md"] - {"The header"} == set(saved_queries())


def test_every_command_and_option_has_help() -> None:
    for name, command in generate.commands().items():
        assert command.help, name
        silent = [parameter.name for parameter in command.params if not parameter.help]
        assert not silent, f"lake {name}: {silent}"


def test_every_column_has_a_meaning() -> None:
    empty = [
        line for line in _text("docs/schema.md").splitlines() if line.startswith("|") and re.search(r"\| *\|$", line)
    ]
    assert not empty, "\n".join(empty)


def test_collect_options_are_the_fields_of_the_configuration() -> None:
    options = {parameter.name for parameter in generate.commands()["collect"].params}
    assert options == {*CollectConfig.model_fields, *generate.ABOUT_THE_CALL}


def test_collect_options_have_no_default_of_their_own() -> None:
    """A default lives in the configuration alone; one on the command line would hide the YAML file's value."""
    settings = [p for p in generate.commands()["collect"].params if p.name not in generate.ABOUT_THE_CALL]
    assert [p.name for p in settings if p.default not in (None, [], ())] == []


# -- what the pages show -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ./lakehouse like that of `lake demo`, only smaller."""
    folder = tmp_path_factory.mktemp("docs")
    keep = ["tokens", "layers", "heads", "activations:resid_post", "embeddings"]
    settings = {"max_new_tokens": 16, "keep": keep, "embed_scope": "completion", "tag": "demo"}
    tracelake.collect(folder / "lakehouse", dataset="tinymath:test", limit=3, samples=2, **settings)
    return folder


def _run(words: list[str]) -> str:
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, f"lake {shlex.join(words)}\n{result.output}"
    return result.stdout


SHOWN = tour.blocks(_text("README.md"))


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=[" ".join(command.split()[:3]) for command, _ in SHOWN])
def test_what_the_readme_shows_is_what_a_lake_prints(
    command: str, output: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    words = shlex.split(command)
    assert words[0] == "lake"
    printed = _run(words[1:])
    assert _shape(printed) == _shape(output), "run `make tour`"


def _shape(output: str) -> list[str]:
    """The first line's words, numbers apart: the header of a table, or a sentence."""
    return [word for word in output.splitlines()[0].split() if not re.search(r"\d", word)]


def test_the_readme_shows_enough() -> None:
    assert len(SHOWN) >= 6
    verbs = {shlex.split(command)[1] for command, _ in SHOWN}
    assert {"sql", "query", "chart", "collect", "verify"} <= verbs
    assert all(output.strip() for _, output in SHOWN)


def _commands_in_pages() -> Iterator[tuple[str, str]]:
    """Every `lake ...` line in a shell block."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            yield from ((page.name, line) for line in block.splitlines() if line.startswith("lake "))


@pytest.mark.parametrize(("page", "line"), list(_commands_in_pages()))
def test_shell_lines_are_understood(page: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    command = generate.commands()[words[1]]
    context = command.make_context(words[1], words[2:])
    if words[1] == "collect":
        settings = {name: value for name, value in context.params.items() if value not in (None, [], ())}
        resolve_config(
            {name: value for name, value in settings.items() if name in CollectConfig.model_fields}, environ={}
        )


def test_the_readme_names_every_command_or_none_that_is_missing() -> None:
    """`lake NAME` in any page is a command that exists; verbs that are missing stand in one list of the README."""
    missing = {"repair", "finalize", "snapshot", "doctor"}
    assert not missing & set(generate.commands()), "a command came to be: take it off the list in README.md"
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:`|^|^\$ )lake ([a-z]+)", text, re.MULTILINE))
        assert named - missing <= set(generate.commands()), page.name


def test_python_blocks_run(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    for page in ("README.md", "docs/python.md"):
        names: dict[str, Any] = {}
        for block in re.findall(r"^```python\n(.*?)^```", _text(page), re.MULTILINE | re.DOTALL):
            exec(compile(block, page, "exec"), names)
        assert names["chart"].to_dict()
        if page == "docs/python.md":
            assert "surprisal_trace" in names["message"]
            assert names["mean"].shape == (128,)


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_promises_name_tests_that_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", _text("docs/promises.md"))
    assert len(named) > 30
    for file, test in named:
        path = next((ROOT / "tests").rglob(file), ROOT / "tests" / file)
        assert path.is_file(), file
        assert re.search(rf"^def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{test}"


def test_columns_named_in_the_glossary_exist() -> None:
    known = {column.name for table in TABLES.values() for column in table.columns}
    stems = ("_bits", "_prob", "logprob", "basin_ratio", "_ms", "n_keys", "max_key", "cos_prev", "char_end", "item_")
    for word in re.findall(r"`([a-z0-9_]+)`", _text("docs/glossary.md")):
        if any(stem in word for stem in stems):
            assert word in known, word


def test_the_picture_is_a_picture() -> None:
    for name in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", _text("README.md")):
        assert (ROOT / name).read_bytes().startswith(b"\x89PNG")


# -- examples ----------------------------------------------------------------------------------------------------------


def test_the_example_runs(tmp_path: Path) -> None:
    rows = _script(ROOT / "examples" / "hesitation.py").main(tmp_path, problems=2, samples=2)
    assert (tmp_path / "hesitation.png").read_bytes().startswith(b"\x89PNG")
    assert rows.columns == ["correct", "step", "entropy_bits", "cos_last_layer", "tokens"]
    generated = tracelake.open(tmp_path / "lakehouse").sql("select sum(n_generated_tokens)::int as n from sequences")
    assert rows["tokens"].sum() == generated["n"].item()
    assert rows["entropy_bits"].null_count() == 0
