"""`lake import logprobs` and what `lake import inspect` shares with it: completions into runs of kind `import`.

One run per model, one sequence per completion. All files are read and checked before the first row is written.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UsageError, did_you_mean
from ...records.run_id import checked_tag, new_run_id
from ..import_run import ImportedRun, check_new, completed, import_json, import_run, imported
from ..imported_rows import FLUSH_ROWS, ImportedRows
from .completion import UNMEASURED, Completion, write_completion
from .responses import completions, read_entries, read_requests

if TYPE_CHECKING:
    from ...lake import Lake

FORMAT = "logprobs"
PER_SEGMENT = 256
Read = Callable[[Path], Iterable[Completion]]
"""How the completions of one file are read; each is read twice."""


@dataclass(frozen=True)
class ImportChoices:
    """Choices of one import."""

    tag: str | None = None
    again: bool = False
    new_only: bool = False


def is_processed(distribution: str) -> bool:
    """Whether log-probabilities are of what was sampled from; UsageError for a word that is no distribution."""
    if distribution not in ("raw", "sampling"):
        raise UsageError(f"--distribution {distribution!r}.{did_you_mean(distribution, ('raw', 'sampling'))}")
    return distribution == "sampling"


@dataclass
class CheckedLog:
    """A file that was read and found fit: how many sequences and tokens each model has."""

    path: Path
    sha256: str
    models: dict[str, list[int]] = field(default_factory=dict)


class Responses:
    """Reads files of responses; `failed` are the places of requests that got none, which are left out."""

    def __init__(self, requests: Path | None, *, processed: bool) -> None:
        """`requests`: a batch file with the requests by `custom_id`; `processed`: see `Completion`."""
        self._requests = {} if requests is None else read_requests(requests)
        self._processed = processed
        self.failed: set[str] = set()

    def __call__(self, path: Path) -> Iterator[Completion]:
        """The completions of one file."""
        for one in read_entries(path):
            if one.response is None:
                self.failed.add(one.where)
            yield from completions(one, self._requests, processed=self._processed)


def check_logs(paths: Sequence[Path], read: Read, choices: ImportChoices, form: str = FORMAT) -> list[CheckedLog]:
    """Read every file whole, writing nothing; UsageError or NotFoundError that names file and place of a fault."""
    checked_tag(choices.tag or form)
    checked: list[CheckedLog] = []
    for path in paths:
        log, rows = CheckedLog(path, ""), ImportedRows(None)
        for completion in read(path):
            counts = log.models.setdefault(completion.model, [0, 0])
            counts[0] += 1
            counts[1] += completion.n_tokens
            write_completion(rows, 0, completion)
            rows.flush()
        if not log.models:
            raise UsageError(f"{path} has no completions to import.")
        log.sha256 = _sha256(path)
        for other in checked:
            if other.sha256 == log.sha256:
                raise UsageError(f"{path} and {other.path} are the same. Give it once.")
        checked.append(log)
    return checked


def import_logs(
    lake: "Lake", checked: Sequence[CheckedLog], read: Read, choices: ImportChoices, form: str = FORMAT
) -> list[ImportedRun]:
    """Write checked files, one run per file and model; UsageError if the lake holds one already."""
    wanted = [(log, model) for log in checked for model in log.models]
    if not choices.again:
        known = imported(lake, form)
        identities = [_identity(log, model) for log, model in wanted]
        if not choices.new_only and all(identity in known for identity in identities):
            return completed(lake, [known[identity] for identity in identities])
        if choices.new_only:
            wanted = [(log, model) for log, model in wanted if _identity(log, model) not in known]
        check_new(((_identity(log, model), str(log.path)) for log, model in wanted), known)
    return [_import_model(lake, log, model, read, choices, form) for log, model in wanted]


def _identity(log: CheckedLog, model: str) -> str:
    """The completions of one model in one file, by the file's content."""
    return f"{model}, sha256 {log.sha256}"


def _import_model(
    lake: "Lake", log: CheckedLog, model: str, read: Read, choices: ImportChoices, form: str
) -> ImportedRun:
    n_sequences, n_tokens = log.models[model]
    segments = [[i, min(i + PER_SEGMENT, n_sequences)] for i in range(0, n_sequences, PER_SEGMENT)]
    records = [{"id": _identity(log, model), "file": log.path.name}]
    about = {"name": model, "is_encoder_decoder": False}
    body = import_json({"format": form, "records": records}, about, tag=choices.tag, seed=None, segments=segments)
    run_id = new_run_id(choices.tag or form)
    mine = (one for one in read(log.path) if one.model == model)
    with import_run(lake, run_id, body | {"unmeasured": UNMEASURED}, again=choices.again) as writer:
        for index, (start, stop) in enumerate(segments):
            with writer.segment(index, (start, stop)) as segment:
                rows = ImportedRows(segment)
                for sequence_id, completion in zip(range(start, stop), mine, strict=False):
                    write_completion(rows, sequence_id, _dated(completion, log))
                    rows.flush(least=FLUSH_ROWS)
                rows.flush()
        if _sha256(log.path) != log.sha256:
            raise UsageError(f"{log.path} was changed while it was imported. Nothing of it was kept; import it again.")
    return ImportedRun(run_id, model, n_sequences, n_tokens)


def _dated(completion: Completion, log: CheckedLog) -> Completion:
    from dataclasses import replace

    columns = {"dataset": log.path.name, **completion.columns}
    return replace(completion, columns=columns)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
