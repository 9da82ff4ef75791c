"""Step 8: answers with a direction added to a layer, always beside a random direction of equal length."""

from pathlib import Path
from typing import TYPE_CHECKING

from ...collect.experiment.sampling_config import layer_of
from ...lake.errors import ConfigError
from ...lake.values import Json
from .sampling_session import SamplingSession as Session

if TYPE_CHECKING:
    from ...analysis.directions.stored import StoredDirection


def steering(session: Session) -> None:
    """What adding each direction changes, against the unsteered answers and against random directions."""
    section = session.config.steering
    check_named(session)
    base = session.sampled(section.temperature, section.max_new_tokens)
    directions = directions_of(session, base)
    if not directions:
        return
    ids = tuple(one.direction_id for one in directions)
    controls = session.ask("random-directions", base, directions=ids, draws=section.random_directions)
    assert controls is not None
    beside = read_directions(session, base, controls.analysis_id)
    runs = [base]
    for one in [*directions, *beside]:
        for strength in section.strength:
            runs.append(session.collect(*steered_part(session, base, one, strength)))
    ks = tuple(k for k in section.ks if k <= session.config.n_samples_per_problem) or None
    if lost := [k for k in section.ks if k > session.config.n_samples_per_problem]:
        session.note(f"pass@{lost[0]} needs {lost[0]} samples of a problem, and there are fewer: it is left out.")
    session.ask("pass-rates", runs, ks=ks)
    session.ask("steering", runs)


def directions_of(session: Session, base: str) -> "list[StoredDirection]":
    """The directions that are added; none in a trial too small for them."""
    section = session.config.steering
    layer = target(session)
    if section.method == "pca":
        greedy = session.collect(*session.greedy_part(section.max_new_tokens))
        answer = session.ask(
            "deviations", [base, greedy], **session.pooling(), layer=str(layer), n=section.n_directions
        )  # fmt: skip
        return [] if answer is None else read_directions(session, base, answer.analysis_id)
    if section.method == "mean_diff":
        options = {"site": session.config.site, "layer": str(layer), "at": section.at, "label": section.by}
        answer = session.ask("directions", base, method="mean-difference", **options)
        return [] if answer is None else read_directions(session, base, answer.analysis_id)
    return [_stored(session, base, name) for name in section.directions]


def check_named(session: Session) -> None:
    """The directions that the configuration names are there: known before anything is collected."""
    from ...analysis.directions.stored import checked_vector, stored_directions
    from ...collect.configuration.edit import is_vector_file
    from ...collect.models.editing.edit_files import read_vector

    named = session.config.steering.directions
    stored_directions(session.lake, ids=[one for one in named if not is_vector_file(one)])
    for one in filter(is_vector_file, named):
        checked_vector(read_vector(one).float().numpy(), Path(one).name)


def target(session: Session) -> int:
    """The layer where directions are found and added."""
    given = session.config.steering.target_layer
    return layer_of(session.config.target_layer if given is None else given, session.n_layers)


def _stored(session: Session, base: str, name: str) -> "StoredDirection":
    """A direction by its id, or that of a file, which becomes a row of `directions` first."""
    from ...analysis.directions.stored import given_direction, stored_directions
    from ...collect.configuration.edit import is_vector_file

    if not is_vector_file(name):
        [one] = stored_directions(session.lake, ids=[name])
        return one
    from ...collect.models.editing.edit_files import read_vector

    vector = read_vector(name).float().numpy()
    answer = given_direction(session.lake, base, vector, session.config.site, target(session), Path(name).name)
    session.note_analysis("given-direction", answer.analysis_id, answer.computed)
    return read_directions(session, base, answer.analysis_id)[0]


def read_directions(session: Session, run: str, analysis_id: str) -> "list[StoredDirection]":
    """The directions that an analysis of a run has stored."""
    from ...analysis.directions.stored import stored_directions

    return stored_directions(session.lake, run=run, analysis_id=analysis_id)


def steered_part(session: Session, base: str, direction: "StoredDirection", strength: float) -> tuple[str, Json]:
    """Name and settings of the answers under one direction: those of the unsteered run, and the edit."""
    about = session.lake.run_json(base)
    if about.get("edits"):
        raise ConfigError(f"Run {base} was collected with --edit: steering is compared with the model as it is.")
    edit = (
        f"add:{direction.site}@{direction.layer}:direction={direction.direction_id}:x{strength:g}:generated"
        if direction.site != "final_norm"
        else f"add:final_norm:direction={direction.direction_id}:x{strength:g}:generated"
    )
    settings = {
        name: value
        for name, value in (about.get("config") or {}).items()
        if name not in ("tag", "edit", "keep", "max_bytes")
    }
    settings["device"] = session.config.model.device
    answers = next(part for part, run in session.result.runs.items() if run == base)
    return f"steered:{direction.direction_id}:{strength:g}:{answers}", {
        **settings,
        "keep": ("tokens",),
        "edit": (edit,),
    }
