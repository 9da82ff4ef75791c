"""`lake import tsif`: step records of token-step fingerprinting (`phase5_records.jsonl`) into runs of kind `import`.

One record per generated token, with the prompt and the growing text in each. A file is read twice, line by line: once
to check all of it, once to write.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import NotFoundError, UsageError
from ...records.run_id import checked_tag, new_run_id
from ..corevital.report import Id
from ..import_run import ImportedRun, check_new, completed, import_json, import_run, imported
from ..imported_rows import FLUSH_ROWS, ImportedRows, Metrics

if TYPE_CHECKING:
    from ...lake import Lake

FORMAT = "tsif"
MAX_LINE_BYTES = 16 << 20
PER_SEGMENT = 256
UNMEASURED = {
    "token_steps.logprob": "the records have the distribution after temperature and top-p",
    "token_steps.entropy_bits": "the records have the likelihood of the chosen token only",
    "sequences.n_prompt_tokens": "the records have no prompt tokens; positions count from the first generated one",
    "layer_summaries": "the records have no states",
}


class StepRecord(BaseModel):
    """One line: one generated token; `t` counts from 1, likelihoods are in nats."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, protected_namespaces=())

    run_id: str
    model_name: str
    prompt_id: str
    prompt_text: str
    bucket: str | None = None
    t: Annotated[int, Field(gt=0, lt=2**31)]
    token: str
    token_id: Id
    logprob: float | None = None
    surprisal: float | None = None
    cos_to_prev: float | None = None
    cos_to_prompt: float | None = None
    cum_text: str | None = None


@dataclass(frozen=True)
class TsifSettings:
    """Choices of one import."""

    tag: str | None = None
    again: bool = False
    new_only: bool = False


@dataclass
class CheckedFile:
    """A file that was read and found fit: how many sequences and tokens each (source run, model) has."""

    path: Path
    sha256: str
    runs: dict[tuple[str, str], list[int]]


def check_records(paths: Sequence[Path], settings: TsifSettings) -> list[CheckedFile]:
    """Read every file whole, writing nothing; UsageError or NotFoundError naming file and line of the first fault."""
    checked_tag(settings.tag or FORMAT)
    checked: list[CheckedFile] = []
    for path in paths:
        digest = hashlib.sha256()
        runs: dict[tuple[str, str], list[int]] = {}
        rows = ImportedRows(None)
        for records in _sequences(path, digest):
            counts = runs.setdefault((records[0].run_id, records[0].model_name), [0, 0])
            counts[0] += 1
            counts[1] += len(records)
            _write(rows, 0, 0, records, path)
            rows.flush()
        if not runs:
            raise UsageError(f"{path} has no records.")
        checked.append(CheckedFile(path, digest.hexdigest(), runs))
        for other in checked[:-1]:
            if other.sha256 == checked[-1].sha256:
                raise UsageError(f"{path} and {other.path} are the same. Give it once.")
    return checked


def import_records(lake: "Lake", checked: Sequence[CheckedFile], settings: TsifSettings) -> list[ImportedRun]:
    """Write checked files, one run per source run and model of a file; UsageError if the lake holds a file already."""
    wanted = [(file, source) for file in checked for source in file.runs]
    if not settings.again:
        known = imported(lake, FORMAT)
        identities = [_record_id(file, source) for file, source in wanted]
        if not settings.new_only and all(identity in known for identity in identities):
            return completed(lake, [known[identity] for identity in identities])
        if settings.new_only:
            wanted = [(file, source) for file, source in wanted if _record_id(file, source) not in known]
        check_new(((_record_id(file, source), str(file.path)) for file, source in wanted), known)
    return [_import_run(lake, file, source, settings) for file, source in wanted]


def _record_id(file: CheckedFile, source: tuple[str, str]) -> str:
    """One source run of one file, by the file's content."""
    return f"{source[0]} of {source[1]}, sha256 {file.sha256}"


def _import_run(lake: "Lake", file: CheckedFile, source: tuple[str, str], settings: TsifSettings) -> ImportedRun:
    n_sequences, n_tokens = file.runs[source]
    segments = [[i, min(i + PER_SEGMENT, n_sequences)] for i in range(0, n_sequences, PER_SEGMENT)]
    records = [{"id": _record_id(file, source), "file": file.path.name, "run_id": source[0]}]
    model = {"name": source[1], "is_encoder_decoder": False}
    body = import_json(
        {"format": FORMAT, "records": records}, model, tag=settings.tag or None, seed=None, segments=segments
    )
    run_id, digest = new_run_id(settings.tag or FORMAT), hashlib.sha256()
    sequences = (
        records for records in _sequences(file.path, digest) if (records[0].run_id, records[0].model_name) == source
    )
    samples: dict[str, int] = {}
    with import_run(lake, run_id, body | {"unmeasured": UNMEASURED}, again=settings.again) as writer:
        for index, (start, stop) in enumerate(segments):
            with writer.segment(index, (start, stop)) as segment:
                rows = ImportedRows(segment)
                for item in range(start, stop):
                    if (found := next(sequences, None)) is None:
                        break
                    sample = samples.get(found[0].prompt_id, 0)
                    samples[found[0].prompt_id] = sample + 1
                    _write(rows, item, sample, found, file.path)
                    rows.flush(least=FLUSH_ROWS)
                rows.flush()
        for _ in sequences:
            pass  # to the end of the file, for its digest
        if digest.hexdigest() != file.sha256:
            raise UsageError(f"{file.path} was changed while it was imported. Nothing of it was kept; import it again.")
    return ImportedRun(run_id, source[1], n_sequences, n_tokens)


def _sequences(path: Path, digest: "hashlib._Hash") -> Iterator[list[StepRecord]]:
    """The records of one prompt after the other; `t` = 1 begins a new one."""
    current: list[StepRecord] = []
    for number, record in _records(path, digest):
        if record.t == 1:
            if current:
                yield current
            current = [record]
            continue
        before = current[-1] if current else None
        if before is None or _identity(before) != _identity(record) or record.t != before.t + 1:
            after = f"after t = {before.t} of prompt {before.prompt_id!r}" if before else "at the beginning"
            raise UsageError(
                f"{path}, line {number}: t is {record.t} of prompt {record.prompt_id!r} {after}; t counts 1, 2, 3..."
            )
        current.append(record)
    if current:
        yield current


def _identity(record: StepRecord) -> tuple[str, str, str, str]:
    return record.run_id, record.model_name, record.prompt_id, record.prompt_text


def _records(path: Path, digest: "hashlib._Hash") -> Iterator[tuple[int, StepRecord]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                digest.update(line)
                if len(line) > MAX_LINE_BYTES:
                    raise UsageError(
                        f"{path}, line {number} has more than {MAX_LINE_BYTES >> 20} MiB; a record is far smaller."
                    )
                if line.strip():
                    yield number, _record(path, number, line)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error


def _record(path: Path, number: int, line: bytes) -> StepRecord:
    try:
        found = pydantic_core.from_json(line)  # takes the bare NaN that these files have
    except ValueError as error:
        raise UsageError(f"{path}, line {number} is no JSON, or was cut short: {error}.") from error
    kind = found.get("type", "phase5_step") if isinstance(found, dict) else None
    if kind != "phase5_step":
        raise UsageError(f"{path}, line {number}: expected an object of type 'phase5_step', found {str(kind)[:40]!r}.")
    try:
        return StepRecord.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}, line {number}: {place}: {first['msg']}.") from error


def _write(rows: ImportedRows, sequence_id: int, sample: int, records: list[StepRecord], path: Path) -> None:
    first, metrics = records[0], Metrics(rows, sequence_id)
    shown, completion, ends = _texts(records)
    rows.add(
        "sequences",
        {
            "sequence_id": sequence_id,
            "prompt_id": hashlib.sha256(first.prompt_text.encode()).hexdigest()[:16],
            "item_id": first.prompt_id,
            "item_offset": 0,
            "sample": sample,
            "prompt": first.prompt_text,
            "rendered_prompt": None if shown == first.prompt_text else shown,
            "completion": completion,
            "n_prompt_tokens": 0,
            "n_generated_tokens": len(records),
            "dataset": path.name,
            "metadata": json.dumps(
                {"format": FORMAT, "source_run_id": first.run_id, "bucket": first.bucket}, ensure_ascii=False
            ),
        },
    )
    metrics.missing("sequences.n_prompt_tokens", UNMEASURED["sequences.n_prompt_tokens"])
    metrics.missing("sequences.origin", "the records do not say whether the program fell back on greedy decoding")
    metrics.missing("sequences.finish_reason", "the records do not say why generation ended")
    if completion is None:
        metrics.missing("sequences.completion", "the growing text does not begin with the prompt")
    for step, record in enumerate(records):
        logprob = record.logprob
        if logprob is None and record.surprisal is not None:
            logprob = -record.surprisal
        rows.add(
            "token_steps",
            {
                "sequence_id": sequence_id,
                "position": step,
                "stack": "decoder",
                "step": step,
                "is_prompt": False,
                "is_forced": False,
                "token_id": record.token_id,
                "token": record.token,
                "char_end": ends[step] if ends else None,
                "sampling_logprob": metrics.column("sampling_logprob", logprob, step=step),
            },
        )
        if step == 0 and (record.cos_to_prev is None or record.cos_to_prev != record.cos_to_prev):
            metrics.missing("cos_to_prev", "there is no step before the first", step=step)
        else:
            metrics.add("cos_to_prev", record.cos_to_prev, step=step)
        metrics.add("cos_to_prompt", record.cos_to_prompt, step=step)


def _texts(records: list[StepRecord]) -> tuple[str, str | None, list[int] | None]:
    """The prompt as decoded, the completion, and where in it each token ends; None where the texts do not fit."""
    first, last = records[0], records[-1]
    if first.cum_text is None or last.cum_text is None:
        return first.prompt_text, None, None
    shown = first.prompt_text
    if not first.cum_text.startswith(shown):
        if not first.cum_text.endswith(first.token) or not first.token:
            return shown, None, None
        shown = first.cum_text.removesuffix(first.token)
    if not last.cum_text.startswith(shown):
        return first.prompt_text, None, None
    ends, end = [], 0
    for record in records:
        # A character that is not complete yet is shown as a replacement character, which later text does not have.
        text = record.cum_text or ""
        text = text if last.cum_text.startswith(text) else commonprefix([text, last.cum_text])
        end = max(end, len(text) - len(shown))
        ends.append(end)
    return shown, last.cum_text[len(shown) :], ends
