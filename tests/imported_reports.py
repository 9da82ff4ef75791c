"""CoreVital reports read into a lake."""

from pathlib import Path
from typing import Any

from tracelake.lake.exchange.corevital.imports import ImportSettings, check_reports, import_reports
from tracelake.lake.lake import Lake


def imported(lake: Path, *paths: Path, **settings: Any) -> list[str]:
    """Import through the library; the run ids."""
    chosen = ImportSettings(**settings)
    return [run.run_id for run in import_reports(Lake.create(lake), check_reports(paths, chosen), chosen)]
