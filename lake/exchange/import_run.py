"""A run made of other programs' records: its id, its run.json, and the refusal to import a record twice."""

import platform
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..errors import LakeError, UsageError
from ..layout import RUN_ID

if TYPE_CHECKING:
    from ..lake import Lake
    from ..writer import RunWriter


def new_run_id(tag: str) -> str:
    """A sortable id: tag, UTC time to the second, four random hex digits."""
    if not RUN_ID.fullmatch(tag) or len(tag) > 40:
        raise UsageError(
            f"--tag {tag!r}: a tag begins with a letter and has 3 to 40 small letters, digits, dashes and underscores."
        )
    return f"{tag}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def import_json(
    source: dict[str, Any], model: dict[str, Any], *, tag: str | None, seed: int | None, segments: Sequence[list[int]]
) -> dict[str, Any]:
    """run.json of an import. `source` has the format and the records' identities; `segments` the ranges of items."""
    return {
        "kind": "import",
        "tag": tag,
        "seed": seed,
        "model": model,
        "source": source,
        "plan": {"segments": list(segments)},
        "versions": {"python": platform.python_version(), "tracelake": version("tracelake")},
    }


@contextmanager
def import_run(lake: "Lake", run_id: str, body: dict[str, Any]) -> Iterator["RunWriter"]:
    """A run to write: complete when the block ends well, gone from the lake when it does not."""
    with lake.start_run(run_id, body) as writer:
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.close()
            with suppress(LakeError):  # on a failing disk the error that matters is the first
                lake.remove(run_id, dry_run=False, now=True)
            raise


def imported(lake: "Lake", form: str) -> dict[str, str]:
    """Identities of the records of a format that the lake holds, each with its run; removed runs do not count."""
    found: dict[str, str] = {}
    for run_id, log in lake.snapshot().runs.items():
        source = log.run_json.get("source")
        if log.removed or log.outcome != "complete" or log.run_json.get("kind") != "import":
            continue
        if isinstance(source, dict) and source.get("format") == form:
            found |= {str(record["id"]): run_id for record in source.get("records", [])}
    return found


def check_new(identities: Iterable[tuple[str, str]], known: dict[str, str]) -> None:
    """UsageError if one of (identity, file) is in the lake already."""
    twice = [(identity, name) for identity, name in identities if identity in known]
    if twice:
        identity, name = twice[0]
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise UsageError(
            f"{name} ({identity}){more} was imported already, as run {known[identity]}. "
            "Leave it out, pass --new-only to import only the others, or --again to import it once more."
        )
