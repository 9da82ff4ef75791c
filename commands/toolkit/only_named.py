"""The command line with the one verb that is typed: making all of them takes longer than many answers."""

import copy
from collections.abc import Sequence

import typer
from typer.main import get_command_name


def only_named(app: typer.Typer, words: Sequence[str]) -> typer.Typer:
    """`app` with nothing but the verb or group that the first word names; whole where it names none.

    Help, completion and the message about an unknown verb need them all.
    """
    first = words[0] if words else ""
    verbs = [verb for verb in app.registered_commands if verb.callback and _name(verb.name, verb.callback) == first]
    groups = [group for group in app.registered_groups if group.name == first]
    if not verbs and not groups:
        return app
    one = copy.copy(app)
    one.registered_commands, one.registered_groups = verbs, groups
    return one


def _name(given: str | None, callback: object) -> str:
    return given or get_command_name(getattr(callback, "__name__", ""))
