"""A command of lake that may fail, and the files that it leaves."""

from pathlib import Path

from typer.testing import CliRunner

from tracelake.cli import app
from tracelake.lake.errors import LakeError


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a lake, locks aside."""
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("_locks")}


def lake_command(*arguments: str) -> tuple[int, str]:
    """Exit code and message of a command."""
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, LakeError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output
