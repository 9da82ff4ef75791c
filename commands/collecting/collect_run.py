"""`lake collect` for a terminal: progress, Ctrl-C, dry run, the lines printed before and after."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...collect.configuration.config import resolve_config
from ...collect.configuration.model_name import check_model_name
from ...lake.values import Json, Row
from ..terminal import print_json, say
from ..toolkit.importing import for_good
from ..toolkit.interrupt import Interrupt
from ..toolkit.progress import ProgressBar
from .answers_line import answers, answers_text

if TYPE_CHECKING:
    from ...collect.running.collector import Collected, Collection
    from ...collect.running.planning.plan import Estimate


def run_collect(
    lake: Path,
    flags: Json,
    *,
    config: Path | None = None,
    resume: str | None = None,
    dry_run: bool = False,
    assume_yes: bool = False,
    as_json: bool = False,
) -> str | None:
    """Collect, resume or only estimate, as the options say; returns the run id, None for an estimate."""
    if resume is not None:
        return _resume(lake, resume, flags, as_json)
    # What needs no model is checked before the libraries of models are imported: a typo costs no seconds.
    settings = resolve_config(flags, file=config)
    check_model_name(settings.model)
    from ...collect.inputs.prompts import checked_source
    from ...lake import Lake

    opened = Lake.open(lake) if settings.looks_up else None
    source = checked_source(settings, lake=opened)
    with for_good():
        from ...collect.running.collector import Callbacks, Collection

    with Interrupt() as stop, ProgressBar() as bar:
        callbacks = Callbacks(bar.update, say, stop)
        collection = Collection(settings, callbacks, source=source, weights=not dry_run, lake=opened)
        sizes = collection.estimate()
        if dry_run:
            print_json(_facts(collection, sizes)) if as_json else print(_estimate_text(collection, sizes))
            return None
        say(_start_text(collection, sizes))
        collected = collection.start(lake, assume_yes=assume_yes)
    _report(collected, answers(Lake.open(lake), collected.run_id), as_json)
    return collected.run_id


def _resume(lake: Path, run: str, flags: Json, as_json: bool) -> str:
    from ...lake import Lake

    opened = Lake.open(lake)
    opened.resolve_run(run)
    with for_good():
        from ...collect.running.collector import Callbacks, resume_run

    with Interrupt() as stop, ProgressBar() as bar:
        callbacks = Callbacks(bar.update, say, stop)
        collected = resume_run(opened, run, callbacks=callbacks, **flags)
    if collected is None:
        run_id = opened.resolve_run(run)
        say(f"{run_id} is complete already.")
        print_json({"run_id": run_id, "status": "complete"}) if as_json else print(run_id)
        return run_id
    _report(collected, answers(opened, collected.run_id), as_json)
    return collected.run_id


def _report(collected: "Collected", graded: Row | None, as_json: bool) -> None:
    rate = collected.n_tokens / max(collected.seconds, 1e-9)
    say(
        f"{collected.n_sequences:,} sequences, {collected.n_tokens:,} tokens, {collected.n_bytes / 1e6:,.1f} MB "
        f"in {collected.seconds:.1f} s ({rate:,.0f} tokens/s)"
    )
    if graded:
        say(answers_text(graded))
    if not as_json:
        print(collected.run_id)
        return
    facts = {
        "run_id": collected.run_id,
        "status": "complete",
        "n_sequences": collected.n_sequences,
        "n_tokens": collected.n_tokens,
        "n_bytes": collected.n_bytes,
        "seconds": round(collected.seconds, 3),
        "notices": list(collected.notices),
        **({"answers": graded} if graded else {}),
    }
    print_json(facts)


def _start_text(collection: "Collection", sizes: "Estimate") -> str:
    per_token = sum(collection.plan.bytes_per_token.values())
    return (
        f"{collection.config.model}: {sizes.n_sequences:,} sequences, {'' if sizes.exact else 'at most '}"
        f"{sizes.n_tokens:,} tokens; keeping {', '.join(collection.config.keep)} = {per_token:,.0f} bytes per token"
    )


def _facts(collection: "Collection", sizes: "Estimate") -> Json:
    return {
        "n_sequences": sizes.n_sequences,
        "n_tokens": sizes.n_tokens,
        "n_bytes": sizes.n_bytes,
        "n_files": sizes.n_files,
        "exact": sizes.exact,
        "table_bytes": sizes.table_bytes,
        "bytes_per_token": collection.plan.bytes_per_token,
        "n_segments": len(collection.plan.segments),
    }


def _estimate_text(collection: "Collection", sizes: "Estimate") -> str:
    early = "the corpus may end" if collection.config.corpus else "the model may stop"
    bound = "" if sizes.exact else f" at most ({early} earlier)"
    lines = [
        f"sequences  {sizes.n_sequences:>16,}",
        f"tokens     {sizes.n_tokens:>16,}{bound}",
        f"bytes      {sizes.n_bytes:>16,}{bound}",
        f"files      {sizes.n_files:>16,} in {len(collection.plan.segments):,} segments",
        "",
        *(f"  {table:<18}{size:>16,} bytes" for table, size in sorted(sizes.table_bytes.items())),
    ]
    return "\n".join(lines)
