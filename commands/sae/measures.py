"""`lake sae eval|compare|features` for a terminal."""

import json
import sys
from typing import Annotated, Any

import typer

from ...lake.errors import StoppedError, UsageError
from ..terminal import HERE, AsJson, LakePath, open_lake, overwrite, print_json, say
from ..toolkit.completion import runs
from ..toolkit.either_run import either_run
from ..toolkit.interrupt import Interrupt
from ..toolkit.verify_option import reading

SaeName = Annotated[str, typer.Argument(metavar="SAE", help="Id of an autoencoder, or a unique beginning of it.")]
OnRun = Annotated[
    str,
    typer.Option("--run", help="Run whose vectors are read; the newest with vectors of its site.", autocompletion=runs),
]
Model = Annotated[
    str | None, typer.Option(help="The run's model, where its name is no folder of this machine: name or folder.")
]
NoModel = Annotated[bool, typer.Option("--no-model", help="Leave out what needs the model.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]
Force = Annotated[bool, typer.Option("--force", help="Compute again what is stored.")]
SHOWN = (
    "n", "l0", "fvu", "cossim", "l2_ratio", "frac_dead", "frac_dense", "ce_increase_nats", "ce_loss_score",
    "ce_loss_score_mean", "kl_div_with_sae",
)  # fmt: skip


def _stopping(stop: Interrupt, again: str) -> Any:
    def check() -> None:
        if stop():
            raise StoppedError(f"Stopped; what is committed is safe. {again}")

    return check


@reading
def evaluate(
    sae: Annotated[list[str], typer.Argument(metavar="SAE...", help="Ids, or unique beginnings of them.")],
    run: OnRun = "latest",
    split: Annotated[str | None, typer.Option(help="Only sequences of this split; all if not given.")] = None,
    sequences: Annotated[int | None, typer.Option(help="Sequences of the cross-entropies; all if not given.")] = None,
    model: Model = None,
    no_model: NoModel = False,
    device: Device = "cpu",
    force: Force = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Reconstruction, sparsity, dead features; cross-entropy and KL with the site replaced by its reconstruction."""
    from ...facade.sae_evaluation import EvaluationOptions
    from ...facade.sae_evaluation import evaluate as evaluate_one

    if sequences is not None and sequences < 1:
        raise UsageError(f"--sequences must be at least 1, not {sequences}.")
    opened = open_lake(lake)
    options = EvaluationOptions(split, model, not no_model, sequences, device)
    found = []
    with Interrupt() as stop:
        for name in sae:
            done = evaluate_one(
                opened, name, run, options, force=force, should_stop=_stopping(stop, "The same command starts again.")
            )
            found.append(done)
            say(f"{done.sae_id} {'evaluated' if done.computed else 'found'} in {done.seconds:.1f} s")
    if as_json:
        return print_json([one.as_dict() for one in found])
    for one in found:
        print(one.sae_id)
        for name in SHOWN:
            value = one.metrics[name]
            print(f"  {name:<20}" + ("-" if value is None else f"{value:,}" if name == "n" else f"{value:.4f}"))
        if one.metrics["reason"]:
            say(f"  note: {one.metrics['reason']}")
    return None


@reading
def compare(
    sae: SaeName,
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The other autoencoder.")],
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Share of the features of two autoencoders that have a decoder row of cosine 0.9 or more in the other."""
    from ...analysis.sae.evaluation import compare as compare_two
    from ...analysis.sae.folder import load_sae

    opened = open_lake(lake)
    found = compare_two(load_sae(opened, sae), load_sae(opened, other))
    if as_json:
        return print_json(found.as_dict())
    for name, share, cosine in (
        (found.a, found.share_of_a, found.mean_max_cos_a),
        (found.b, found.share_of_b, found.mean_max_cos_b),
    ):
        print(f"{name:<60} {share:.1%} of its features are in the other (mean largest cosine {cosine:.3f})")
    return None


@reading
@either_run
def features(
    sae: SaeName,
    run: OnRun = "latest",
    show: Annotated[int | None, typer.Option("--show", help="Print this feature: statistics, label, examples.")] = None,
    model: Model = None,
    no_model: NoModel = False,
    device: Device = "cpu",
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Encode a run into features, with statistics, examples and rule labels of all of them; a look-up when repeated."""
    from ...facade.sae_features import compute_features

    opened = open_lake(lake)
    n_done = [0]

    def progress(n_rows: int) -> None:
        n_done[0] += n_rows
        if sys.stderr.isatty():
            overwrite(f"{n_done[0]:,} tokens encoded", last=False)

    with Interrupt() as stop:
        done = compute_features(
            opened, sae, run, model=model, with_model=not no_model, device=device,
            should_stop=_stopping(stop, "The same command goes on."), on_progress=progress,
        )  # fmt: skip
    if n_done[0] and sys.stderr.isatty():
        overwrite(f"{n_done[0]:,} tokens encoded", last=True)
    how = "computed" if done.computed else "found"
    say(f"{done.sae_id} on {done.run_id}: {how} in {done.seconds:.1f} s")
    if show is not None:
        from ...queries.cards.feature_card import feature_card

        card = feature_card(opened, done.run_id, done.sae_id, show)
        return print(json.dumps(card.as_dict(), ensure_ascii=False)) if as_json else print(card.text())
    if as_json:
        return print_json(done.as_dict())
    return print(", ".join(f"{n:,} {table}" for table, n in done.n_rows.items() if table != "analyses"))
