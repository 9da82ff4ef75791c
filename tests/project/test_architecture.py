"""The shape of the source: floors, what start-up loads, what is never used, how long things may be."""

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tracelake
from tracelake.lake import Lake

ROOT = Path(tracelake.__file__).parent
FOLDERS = ("analysis", "collect", "commands", "facade", "lake", "queries")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
HEAVY = ("torch", "transformers", "sentence_transformers", "umap", "ripser", "sklearn", "altair")
LONGEST_FUNCTION, LONGEST_FILE = 60, 350
Check = Callable[[ast.AST], Iterator[str]]


def _loaded_by(code: str) -> set[str]:
    """Top-level modules in `sys.modules` after `code` ran in an interpreter of its own."""
    report = "import sys; print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("LOADED")[2].split())


def _command(*arguments: str) -> str:
    return f"import sys\nfrom tracelake.cli import app\nsys.argv = {['lake', *arguments]!r}\napp(standalone_mode=False)"


def test_floors() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    "code",
    ["import tracelake", _command("--help"), _command("collect", "--help"), _command("sae", "train", "--help")],
)
def test_help_loads_nothing_heavy(code: str) -> None:
    assert not _loaded_by(code) & {*HEAVY, "duckdb", "pyarrow", "polars", "numpy"}


@pytest.mark.parametrize("arguments", [("sql", "select 1 as one"), ("query", "run_overview"), ("sae", "list")])
def test_reading_loads_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    Lake.create(tmp_path)
    loaded = _loaded_by(_command(*arguments, "--lake", str(tmp_path)))
    assert "duckdb" in loaded or arguments[0] == "sae"
    assert not loaded & set(HEAVY)


def test_the_check_sees_what_is_loaded() -> None:
    assert "torch" in _loaded_by("import tracelake.analysis.sae.kernels")


@functools.cache
def _trees() -> list[tuple[str, ast.Module]]:
    return [(str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]


TENSORS_ONLY = "analysis/sae/pt_file.py"
"""Reads files of dictionary_learning, which are pickles, behind --allow-pt."""


def _unsafe(tree: ast.AST) -> Iterator[str]:
    """Ways to read or write pickles."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
        for name in names:
            if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"):
                yield f"line {node.lineno}: {name}"
            if name in ("torch.load", "torch.save", "pandas.read_pickle"):
                yield f"line {node.lineno}: {name}"
        if isinstance(node, ast.Attribute) and f"{ast.unparse(node.value)}.{node.attr}" in ("torch.load", "torch.save"):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "to_pickle"):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield f"line {node.value.lineno}: allow_pickle"


def _broad_excepts(tree: ast.AST) -> Iterator[str]:
    """Handlers that swallow every error; one that ends in a bare `raise`, or in `raise ... from`, does not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {ast.unparse(kind) if kind else "" for kind in caught}
            last = node.body[-1]
            raises = isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None)
            if names & {"", "Exception", "BaseException"} and not raises:
                yield f"line {node.lineno}: except {', '.join(sorted(names))}"


def _prints(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
            yield f"line {node.lineno}: print"


@pytest.mark.parametrize(
    ("source", "check"),
    [
        ("import pickle", _unsafe),
        ("from joblib import load", _unsafe),
        ("from torch import load", _unsafe),
        ("import torch\nx = torch.load('a')", _unsafe),
        ("np.load('a', allow_pickle=True)", _unsafe),
        ("try:\n    f()\nexcept Exception:\n    pass", _broad_excepts),
        ("try:\n    f()\nexcept (ValueError, Exception) as e:\n    g(e)", _broad_excepts),
        ("try:\n    f()\nexcept:\n    pass", _broad_excepts),
        ("try:\n    f()\nexcept Exception:\n    raise ValueError", _broad_excepts),
        ("print('x')", _prints),
    ],
)
def test_the_checks_find_what_they_look_for(source: str, check: Check) -> None:
    harmless = "np.load('a', allow_pickle=False)\ntry:\n    f()\nexcept BaseException:\n    raise"
    assert list(check(ast.parse(source)))
    assert not list(check(ast.parse(harmless)))


@pytest.mark.parametrize("check", [_unsafe, _broad_excepts])
def test_source_has_none_of(check: Check) -> None:
    found = [f"{name}, {what}" for name, tree in _trees() for what in check(tree) if name != TENSORS_ONLY]
    assert not found, "\n".join(found)


def test_the_one_reader_of_pickles_makes_tensors_only() -> None:
    [call] = [
        node
        for name, tree in _trees()
        if name == TENSORS_ONLY
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert {word.arg: ast.unparse(word.value) for word in call.keywords}["weights_only"] == "True"


def test_library_code_does_not_print() -> None:
    """Verbs print: `cli.py`, `commands/`, and the files that only these use."""
    terminal = {"cli.py", "queries/tour.py", "queries/results/formats.py"}
    library = [(n, tree) for n, tree in _trees() if n not in terminal and not n.startswith("commands/")]
    found = [f"{name}, {what}" for name, tree in library for what in _prints(tree)]
    assert not found, "\n".join(found)


def test_only_the_facade_and_the_command_lie_at_the_root() -> None:
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "cli.py"}
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_functions_and_files_are_short() -> None:
    long = [
        f"{name}, line {node.lineno}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for name, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    long += [f"{path} has {n} lines" for path, n in lengths.items() if n > LONGEST_FILE]
    assert not long, "\n".join(long)


def test_no_file_is_named_after_nothing() -> None:
    banned = {"utils", "util", "helpers", "common", "misc", "manager", "handler", "core"}
    assert not [path for path in SOURCES if path.stem in banned or "phase" in path.stem]
