"""`lake sae import` and `lake sae export`: autoencoders of other libraries, for a terminal."""

from pathlib import Path
from typing import Annotated

import typer

from ..terminal import HERE, AsJson, LakePath, print_json, say
from ..toolkit.verify_option import reading


@reading
def import_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that holds the weights.")],
    run: Annotated[
        str | None, typer.Option(help="Run whose vectors it is tried on, and whose model it is of; the latest.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format", help="saelens, gemma_scope, llama_scope, sparsify or dictionary_learning; by its files."
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Block that it reads, where the folder does not say it.")] = None,
    site: Annotated[str | None, typer.Option(help="Site that it reads.")] = None,
    to_site: Annotated[str | None, typer.Option(help="Site of the same block that a transcoder writes.")] = None,
    allow_pt: Annotated[
        bool, typer.Option("--allow-pt", help="Read tensors, and nothing else, from a .pt file.")
    ] = False,
    as_jumprelu: Annotated[
        bool, typer.Option("--as-jumprelu", help="Give a top-k transcoder a threshold with the same mean L0.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Keep it untried, or although it reconstructs badly.")] = False,
    tag: Annotated[str | None, typer.Option(help="Label of the run; begins its id.")] = None,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Import an autoencoder of another library, if it reconstructs the lake's own vectors."""
    from ...lake import Lake
    from ...lake.exchange.sae_import import SaeImport, import_sae

    read_arrays = None
    if allow_pt:
        from ...analysis.sae.pt_file import read_pt as read_arrays
    how = SaeImport(form, layer, site, to_site, run, force, as_jumprelu, tag)
    done = import_sae(Lake.open(lake), folder, how, read_arrays=read_arrays)
    for notice in done.notices:
        say(notice)
    tried = "not tried" if done.fvu is None else f"FVU {done.fvu:.3f}, L0 {done.l0:.1f}"
    say(f"{done.source}: {done.arch}, {done.d_in} -> {done.d_sae}, {done.site}@{done.layer}: {tried}")
    print_json(done.as_dict()) if as_json else print(done.sae_id)


@reading
def export_folder(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="Id of the autoencoder, or a unique beginning of it.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to make; its files of these names go.")],
    dashboard: Annotated[
        bool, typer.Option("--dashboard", help="Write batch-N.json, which Neuronpedia imports, instead of weights.")
    ] = False,
    run: Annotated[str, typer.Option(help="With --dashboard: the run that the features were computed on.")] = "latest",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Write an autoencoder as a SAELens folder, or with --dashboard its features as SAEDashboard does."""
    from ...lake import Lake

    if dashboard:
        from ...lake.exchange.saedashboard.writing import export_dashboard

        done = export_dashboard(Lake.open(lake), sae, folder, run=run)
        say(f"{done.n_features:,} features in {len(done.files)} files")
        return print_json(vars(done)) if as_json else print(folder)
    from ...lake.exchange.sae_export import export_sae

    files = export_sae(Lake.open(lake), sae, folder)
    return print_json({"folder": str(folder), "files": files}) if as_json else print(folder)
