"""`lake import corevital`: JSON reports of the CoreVital monitor into runs of kind `import`, one per model.

All reports are read and mapped before anything is written, so a bad one leaves the lake as it was; they are read
again to be written, so that memory holds a few at a time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...records.run_id import checked_tag, new_run_id
from ...values import Json
from ..import_run import ImportedRun, check_new, completed, import_json, import_run, imported
from ..imported_rows import FLUSH_ROWS, ImportedRows
from .conventions import Conventions, read_conventions
from .report import FirstLayer, ReportFile, read_report
from .report_rows import ReportRows
from .sequence import FORMAT

if TYPE_CHECKING:
    from ...lake import Lake

Progress = Callable[[str, int, int], None]
"""Called with what is done, how many are done, and of how many."""

PER_SEGMENT = 32
UNMEASURED = {
    "token_steps.topk_ids": "reports have probabilities rounded to three decimals; see imported_metrics",
    "token_steps.latency_ms": "reports have the time of the whole run only",
    "layer_summaries.cos_prev_layer": "reports have no cosine of one state to another",
    "head_summaries.entropy_bits": "reports have sums over heads only",
}


@dataclass(frozen=True)
class Checked:
    """A report that was read and found fit."""

    path: Path
    sha256: str
    trace_id: str
    model: tuple[tuple[str, Any], ...]
    seed: int | None
    n_tokens: int


@dataclass(frozen=True)
class ImportSettings:
    """Choices of one import."""

    tag: str | None = None
    first_layer: FirstLayer = "auto"
    again: bool = False
    new_only: bool = False


def check_reports(
    paths: Sequence[Path], settings: ImportSettings, *, on_progress: Progress = lambda doing, done, n: None
) -> list[Checked]:
    """Read and map every report, writing nothing; UsageError or NotFoundError naming the first bad one."""
    checked_tag(settings.tag or FORMAT)  # a bad tag is found before anything is read
    checked: list[Checked] = []
    for done, path in enumerate(paths):
        on_progress("checking", done, len(paths))
        checked.append(_check(path, settings))
    _refuse_twins(checked)
    return checked


def import_reports(
    lake: "Lake",
    checked: Sequence[Checked],
    settings: ImportSettings,
    *,
    on_progress: Progress = lambda doing, done, n: None,
) -> list[ImportedRun]:
    """Write checked reports, one run per model; UsageError if the lake holds one of them already."""
    if not settings.again:
        known = imported(lake, FORMAT)
        if checked and not settings.new_only and all(one.trace_id in known for one in checked):
            return completed(lake, [known[one.trace_id] for one in checked])
        if settings.new_only:
            checked = [one for one in checked if one.trace_id not in known]
        check_new(((one.trace_id, str(one.path)) for one in checked), known)
    groups: dict[tuple[tuple[str, Any], ...], list[Checked]] = {}
    for one in checked:
        groups.setdefault(one.model, []).append(one)
    runs: list[ImportedRun] = []
    for group in groups.values():
        before = sum(run.n_sequences for run in runs)
        runs.append(
            _import_group(
                lake, group, settings, lambda n, before=before: on_progress("writing", before + n, len(checked))
            )
        )
    return runs


def _check(path: Path, settings: ImportSettings) -> Checked:
    found = read_report(path)
    reading = read_conventions(found.report, settings.first_layer)
    rows = ImportedRows(None)
    n_tokens = ReportRows(rows, 0, reading, found).write()
    rows.flush()  # forms the columns, as writing would, and forgets them
    model = tuple(_model(found, reading).items())
    return Checked(path, found.sha256, found.report.trace_id, model, found.report.run_config.seed, n_tokens)


def _model(found: ReportFile, reading: Conventions) -> Json:
    """The model's part of run.json."""
    model = found.report.model
    quantization = model.quantization
    return {
        "name": model.hf_id,
        "revision": model.revision,
        "architecture": model.architecture,
        "quantization": (quantization.method or "unknown") if quantization and quantization.enabled else None,
        "is_encoder_decoder": reading.is_encoder_decoder,
        "n_layers": model.num_layers,
        "n_heads": model.num_attention_heads,
        "d_model": model.hidden_size,
        "dtype": model.dtype,
        "device": model.device,
    }


def _refuse_twins(checked: Sequence[Checked]) -> None:
    seen: dict[str, Checked] = {}
    for one in checked:
        if (other := seen.setdefault(one.trace_id, one)) is not one:
            raise UsageError(f"{one.path} and {other.path} are both the trace {one.trace_id}. Give it once.")


def _import_group(
    lake: "Lake", group: Sequence[Checked], settings: ImportSettings, on_progress: Callable[[int], None]
) -> ImportedRun:
    segments = [[start, min(start + PER_SEGMENT, len(group))] for start in range(0, len(group), PER_SEGMENT)]
    seeds = {one.seed for one in group}
    records = [{"id": one.trace_id, "file": one.path.name, "sha256": one.sha256} for one in group]
    body = import_json(
        {"format": FORMAT, "records": records},
        dict(group[0].model),
        tag=settings.tag,
        seed=seeds.pop() if len(seeds) == 1 else None,
        segments=segments,
    )
    run_id = new_run_id(settings.tag or FORMAT)
    with import_run(lake, run_id, body | {"unmeasured": UNMEASURED}, again=settings.again) as writer:
        for index, (start, stop) in enumerate(segments):
            with writer.segment(index, (start, stop)) as segment:
                rows = ImportedRows(segment)
                for item in range(start, stop):
                    on_progress(item)
                    _write(rows, item, group[item], settings)
                    rows.flush(least=FLUSH_ROWS)
                rows.flush()
    return ImportedRun(run_id, str(body["model"]["name"]), len(group), sum(one.n_tokens for one in group))


def _write(rows: ImportedRows, item: int, one: Checked, settings: ImportSettings) -> None:
    found = read_report(one.path)
    if found.sha256 != one.sha256:
        raise UsageError(f"{one.path} was changed while it was imported. Nothing of it was kept; import it again.")
    ReportRows(rows, item, read_conventions(found.report, settings.first_layer), found).write()
