"""What a recorded run may do when it is resumed: nothing with reach, unless it is typed again.

A lake may come from somebody else. What its run.json says about this machine (which model to load, whose code to run,
which files to read) is a wish; whoever resumes the run gives consent by typing the same settings once more.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from ....lake.errors import ConfigError, UsageError
from ...configuration.config import CollectConfig
from ...configuration.edit import EditSetting
from ...configuration.given_form import names_stored
from ...inputs.wording import TEMPLATES

WITHOUT_REACH = frozenset(
    """
    prompt limit max_new_tokens keep samples temperature top_p top_k min_p repetition_penalty stop stop_when chat
    on_long dtype store_dtype max_bytes segment_items batch_size tag seed topk observe_prompt edge_threshold edge_cap
    edge_cap_generated strict_timings embed_scope prompts_format split_lines grader chat_template allow_missing
    generation_config tokens text_field min_chars document_tokens pack validation
    branch_from continue_run sequence at force
    """.split()
)
"""Settings that only say how to compute; all others, also those of later versions, have to be typed."""

HARMLESS: dict[str, Callable[[Any], bool]] = {
    "model": lambda value: value == "tinymath",
    "device": lambda value: value in ("auto", "cpu"),
    "dataset": lambda value: isinstance(value, str) and re.fullmatch(r"tinymath(:\w+)?", value) is not None,
    "corpus": lambda value: isinstance(value, str) and re.fullmatch(r"tinymath(:\w+)?", value) is not None,
    "prompt_template": lambda value: value in TEMPLATES,
    "attn_implementation": lambda value: value in ("eager", "sdpa"),
    "given": lambda value: isinstance(value, str) and names_stored(value),
    "edit": lambda value: not any(EditSetting.parse(text).is_file for text in value),
}
"""Values with nothing outside of this program behind them."""

MAY_MOVE = ("model", "device")
"""What may have another value now: the weights are compared by their checksum, a device is this machine's own."""


def consented(run_id: str, stored: object, typed: Mapping[str, object], *, own: bool = False) -> CollectConfig:
    """The run's settings with those that were typed; UsageError that says what to type, ConfigError if it has none.

    Of a run that was begun here (`own`), everything was typed here already.
    """
    if not isinstance(stored, dict):
        raise ConfigError(f"Run {run_id!r} cannot be resumed: it is no collection of `lake collect`.")
    wanted = {name: value for name, value in stored.items() if _has_reach(name, value)}
    check_typed(run_id, stored, typed)
    if not own and (missing := {name: value for name, value in wanted.items() if name not in typed}):
        raise UsageError(_request(run_id, wanted, missing))
    settings = {**stored, **{name: value for name, value in typed.items()}, "max_bytes": typed.get("max_bytes")}
    try:
        return CollectConfig(**settings)
    except (ValidationError, TypeError) as error:
        first = error.errors()[0]["loc"] if isinstance(error, ValidationError) else ()
        name = ".".join(str(part) for part in first) or "as a whole"
        raise ConfigError(f"Run {run_id!r} cannot be resumed: its setting {name!r} is not possible here.") from error


def check_typed(run_id: str, stored: object, typed: Mapping[str, object]) -> None:
    """UsageError for a setting that the run has already, or that contradicts it."""
    recorded = stored if isinstance(stored, dict) else {}
    for name, value in typed.items():
        if name in WITHOUT_REACH:
            if name == "max_bytes":
                continue
            raise UsageError(f"--resume takes everything else from the run; leave out {_option(name)}.")
        if name not in MAY_MOVE and _plain(value) != _plain(recorded.get(name)):
            raise UsageError(f"Run {run_id!r} was recorded with {_typed(name, recorded.get(name))}, not {value!r}.")


def resume_command(run_id: str, settings: Mapping[str, object]) -> str:
    """What to type to continue a run with these settings."""
    options = [_typed(name, value) for name, value in settings.items() if _has_reach(name, value)]
    return " ".join([f"lake collect --resume {run_id}", *options])


def _has_reach(name: str, value: object) -> bool:
    """Whether a recorded setting would make this machine load, run, read or ask for something."""
    if name in WITHOUT_REACH or value in (None, False, "", [], ()):
        return False
    return name not in HARMLESS or not HARMLESS[name](value)


def _request(run_id: str, wanted: Mapping[str, object], missing: Mapping[str, object]) -> str:
    code = (
        " -- With --trust-remote-code the model repository's code runs on this machine: only if you trust its author."
        if "trust_remote_code" in wanted
        else ""
    )
    return (
        f"Run {run_id!r} was recorded with {', '.join(_option(name) for name in missing)}, which reaches outside the "
        f"lake, and a lake cannot consent to that. If you do, type: {resume_command(run_id, wanted)}{code}"
    )


def _plain(value: object) -> Any:
    """A setting as run.json holds it."""
    return list(value) if isinstance(value, tuple) else value


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _typed(name: str, value: object) -> str:
    """An option as it is typed in a shell."""
    if isinstance(value, list | tuple):
        return " ".join(_typed(name, one) for one in value)
    return _option(name) if value is True else f"{_option(name)} {shlex.quote(str(value))}"
