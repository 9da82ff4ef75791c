"""What the steps of the correctness experiment will take at most, before any of them runs; nothing is written."""

from typing import TYPE_CHECKING

from .correctness_session import TEST, TRAIN
from .correctness_session import CorrectnessSession as Session
from .session import Cost

if TYPE_CHECKING:
    from ...collect.running.planning.plan import Estimate

PATH_BYTES, RANK_BYTES = 4, 60
"""Of one number of an effect, and of one row of the ranking."""
SCORED = 1.5
"""A pass with scores, by head too, over a pass that only reads (`benchmarks.analysing.second_order`: under 1.3)."""
KEPT_READING = ("activations:final_norm:last",)
"""What a trial of one batch keeps: its time is that of reading."""


def runs_cost(session: Session) -> list[Cost]:
    """The answers of both sets: tokens and bytes, and minutes by one batch of them."""
    found = []
    for name in (TRAIN, TEST):
        part, settings = session.part(name)
        run_id = session.runs.stored().get(part)
        if run_id is not None and session.lake.run_status(run_id) == "complete":
            found.append(Cost(1, part, stored=True))
            continue
        sizes = session.runs.estimate(settings)
        minutes = session.batch_minutes(settings) * sizes.n_sequences / settings["batch_size"]
        found.append(Cost(
            1, part, sizes.n_sequences, sizes.n_tokens, sizes.n_bytes, sizes.exact, minutes=minutes
        ))  # fmt: skip
    return found


def ablation_cost(session: Session) -> list[Cost]:
    """Every problem once per condition, as long as its unedited answer may be."""
    section = session.config.ablation
    _, settings = session.part(TEST)
    sizes = session.runs.estimate(settings | {"keep": ("tokens",)})
    n_layers = session.n_layers if section.layers == "all" else len(section.layers.split(","))
    n = 1 + len(section.sites) * len(section.actions) * n_layers
    problems = min(section.limit or sizes.n_sequences, sizes.n_sequences)
    share = problems / max(1, sizes.n_sequences)
    minutes = session.batch_minutes(settings) * problems * n / settings["batch_size"]
    tokens = int(sizes.n_tokens * n * share)
    return [*runs_cost(session), Cost(3, "ablation", problems * n, tokens, 60 * problems * n, False, minutes=minutes)]


def ranking_cost(session: Session) -> list[Cost]:
    """One pass over the problems; a row per neuron."""
    sizes, minutes = _reading(session)
    n_bytes = RANK_BYTES * session.n_layers * session.layer_width
    return [*runs_cost(session), _passes(4, "ranking", sizes, 1, minutes, n_bytes)]


def second_order_cost(session: Session) -> list[Cost]:
    """One pass over the problems, with what lies between layers beside it; two numbers per problem and neuron."""
    return [*runs_cost(session), _scores_cost(session, 5)]


def neurons_cost(session: Session) -> list[Cost]:
    """The scores if they are not there; one pass for the paths, and one for everything that is taken away."""
    sizes, minutes = _reading(session)
    n_neurons = session.neurons_of_a_layer()
    later = max(0, session.n_layers - 1)
    # Unedited twice, zero and mean and the means themselves of each layer, and every neuron alone.
    n_passes = 3 + later * (3 + n_neurons)
    n_paths = session.outline.n_heads * later * (later + 1) // 2
    n_bytes = PATH_BYTES * sizes.n_sequences * n_neurons * n_paths
    return [
        *runs_cost(session), _scores_cost(session, 6), _passes(6, "neurons", sizes, n_passes, minutes, n_bytes)
    ]  # fmt: skip


def _scores_cost(session: Session, step: int) -> Cost:
    sizes, minutes = _reading(session)
    n_bytes = PATH_BYTES * 2 * session.n_layers * session.layer_width * sizes.n_sequences
    return _passes(step, "second-order", sizes, 1, SCORED * minutes, n_bytes)


def _reading(session: Session) -> "tuple[Estimate, float]":
    """What reading the problems once (with their answers, where effects are at their ends) takes, and its minutes."""
    _, settings = session.part(TEST)
    if session.at == "prompt":
        settings = settings | {"max_new_tokens": 0, "keep": KEPT_READING}
    sizes = session.runs.estimate(settings)
    return sizes, session.batch_minutes(settings) * sizes.n_sequences / settings["batch_size"]


def _passes(step: int, part: str, sizes: "Estimate", n_passes: int, minutes: float, n_bytes: int) -> Cost:
    n_sequences, n_tokens = n_passes * sizes.n_sequences, n_passes * sizes.n_tokens
    return Cost(step, part, n_sequences, n_tokens, n_bytes, False, minutes=n_passes * minutes)
