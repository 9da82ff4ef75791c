"""Step records made up, saved, read into a lake and written again."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tracelake.cli import app
from tracelake.lake.exchange.tsif.imports import TsifSettings, check_records, import_records
from tracelake.lake.lake import Lake

Record = dict[str, Any]


def saved(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def imported(lake: Path, *paths: Path, **settings: Any) -> list[str]:
    chosen = TsifSettings(**settings)
    return [run.run_id for run in import_records(Lake.create(lake), check_records(paths, chosen), chosen)]


def exported(lake: Path, run: str, *arguments: str) -> list[Record]:
    result = CliRunner().invoke(app, ["export", "steps-jsonl", run, "--lake", str(lake), *arguments])
    assert result.exit_code == 0, result.output
    # parse_constant is called for NaN and infinity, which valid JSON does not have.
    return [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]
