"""`lake analyze embed` for a terminal."""

import time
from typing import Annotated

import typer

from ..terminal import HERE, AsJson, LakePath, open_lake, print_json, say


def embed(
    run: Annotated[str, typer.Option(help="Run id, unique prefix, tag, or `latest`.")] = "latest",
    embedder: Annotated[
        str | None, typer.Option(help="Sentence-transformers name or folder; all-MiniLM-L6-v2 if not given.")
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="completion, prompt+completion, window:N or prompt; may repeat.  [default: completion, prompt]"
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Embed the growing text of a run that was collected without --keep embeddings; only what is missing."""
    started, scopes = time.perf_counter(), scope or ["completion"]
    result = open_lake(lake).embed(
        run, embedder=embedder, scopes=scopes, device=device, on_progress=_progress(started)
    )  # fmt: skip
    say(
        f"{result.n_embedded:,} texts embedded, {result.n_stored:,} were there, in "
        f"{time.perf_counter() - started:.1f} s; {result.n_truncated:,} of them cut by the embedder"
    )
    if as_json:
        return print_json(result.as_dict())
    return print(result.run_id)


def _progress(started: float):
    def show(done: int, n_texts: int) -> None:
        rate = done / max(time.perf_counter() - started, 1e-9)
        say(f"  {done:,} of {n_texts:,} texts ({rate:,.0f}/s)")

    return show
