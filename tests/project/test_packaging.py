"""What is installed: the listed packages and data files are those on disk, and a wheel works beside a user's files."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tracelake

ROOT = Path(tracelake.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
NOT_INSTALLED = {"tests", "docs", "benchmarks", "examples", "build", "dist"}


def _folders() -> list[Path]:
    """Folders of the package: the root and everything below it with an `__init__.py`."""
    tops = [
        top for top in ROOT.iterdir() if top.is_dir() and not _hidden(Path(top.name)) and top.name not in NOT_INSTALLED
    ]
    inner = (file.parent.relative_to(ROOT) for top in tops for file in top.rglob("__init__.py"))
    return [Path(), *sorted(path for path in inner if not _hidden(path))]


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def test_every_folder_is_listed() -> None:
    """An unlisted folder works in an editable install and is missing from the wheel."""
    assert sorted(SETUPTOOLS["packages"]) == sorted(".".join(("tracelake", *path.parts)) for path in _folders())


def test_every_folder_with_source_is_a_package() -> None:
    packages = {ROOT / path for path in _folders()}
    source = {path.parent for package in packages if package != ROOT for path in package.rglob("*.py")}
    assert source <= packages


def test_package_data_matches_files() -> None:
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: nothing matches {pattern}"


def test_no_data_file_is_left_out() -> None:
    taken = {
        file
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    inner = [path for path in _folders() if path.parts]
    files = {file for path in inner for file in (ROOT / path).rglob("*") if file.is_file()}
    data = {file for file in files if file.suffix not in (".py", ".pyc") and not _hidden(file.relative_to(ROOT))}
    assert data <= taken, sorted(str(file.relative_to(ROOT)) for file in data - taken)


def test_versions_agree() -> None:
    assert tracelake.__version__ == PROJECT["project"]["version"]
    assert f"## [{tracelake.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_constraints_meet_the_bounds() -> None:
    """Every requirement has one exact version in constraints.txt, not below the bound in pyproject.toml."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(_pin(line) for line in lines if line and not line.startswith("#"))
    project = PROJECT["project"]
    used = [*project["dependencies"], *(x for extra in project["optional-dependencies"].values() for x in extra)]
    for requirement in used:
        name, bound = (part.strip() for part in requirement.split(">="))
        version = pinned[_canonical(name)]
        assert _numbers(version) >= _numbers(bound), f"{name} {version} is older than {bound}"


def _pin(line: str) -> tuple[str, str]:
    name, version = line.split("==")
    return _canonical(name), version


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def test_the_name_of_the_folder_does_not_matter(tmp_path: Path) -> None:
    """A checkout whose name is no Python name: pytest must not import the root's `__init__.py` under it."""
    checkout = tmp_path / "some-odd.name"
    (checkout / "tests").mkdir(parents=True)
    for name in ("__init__.py", "pyproject.toml"):
        shutil.copy(ROOT / name, checkout / name)
    (checkout / "tests" / "test_one.py").write_text("def test_one():\n    import tracelake\n", encoding="utf-8")
    assert "1 passed" in _run([sys.executable, "-m", "pytest", "-q"], checkout)


@pytest.mark.slow
def test_a_wheel_works_beside_a_users_own_analysis(tmp_path: Path) -> None:
    """Installed without its dependencies into a fresh environment that borrows ours."""
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".*", "build", "dist", "lakehouse*", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    _run([sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "wheels", str(source)], tmp_path)
    [wheel] = (tmp_path / "wheels").glob("tracelake-*.whl")
    _run([sys.executable, "-m", "venv", str(tmp_path / "venv")], tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)], tmp_path)
    site = _run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip()
    _borrow(Path(site))

    work = tmp_path / "work"
    work.mkdir()
    for name in ("analysis.py", "collect.py", "cli.py", "lake.py"):
        (work / name).write_text("raise RuntimeError('a file of the user was imported')\n", encoding="utf-8")
    lake = str(tmp_path / "venv" / "bin" / "lake")
    assert _run([str(python), "-c", "import tracelake; print(tracelake.__file__)"], work).startswith(str(tmp_path))
    assert "collect" in _run([lake, "--help"], work)
    assert "surprisal_trace" in _run([lake, "query"], work)
    assert "token_steps" in _run([lake, "show", "--schema"], work)
    made = _run([lake, "collect", "--dataset", "tinymath:test", "--limit", "1", "--max-new-tokens", "2"], work)
    assert made.strip()
    assert _run([lake, "sql", "select count(*) as n from sequences", "-f", "csv"], work).split() == ["n", "1"]


def _borrow(site: Path) -> None:
    """Put our libraries behind the fresh environment's own; `.pth` files of ours, the editable install, stay out."""
    libraries = [path for path in sys.path if path.endswith("-packages")]
    (site / "borrowed.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")


def _run(command: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("TRACELAKE", "PYTHON"))}
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"
    return result.stdout
