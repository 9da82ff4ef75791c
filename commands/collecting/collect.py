"""`lake collect`: options about the call, and one for each field of `CollectConfig`, made from it."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand

from ...lake.values import Json
from ..terminal import HERE, AsJson, LakePath
from ..toolkit.completion import models, runs

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

CALL = "This call"
GROUPS = {
    "Model": ("model", "revision", "dtype", "device", "attn_implementation", "trust_remote_code", "allow_missing"),
    "Prompts": (
        "prompt", "prompts", "prompts_format", "split_lines", "dataset", "dataset_path", "given", "limit",
        "prompt_template", "chat", "chat_template", "on_long", "grader",
    ),
    "A corpus": ("corpus", "tokens", "text_field", "min_chars", "document_tokens", "pack", "validation"),
    "Stored sequences": ("branch_from", "continue_run", "sequence", "at", "force"),
    "Decoding": (
        "max_new_tokens", "samples", "temperature", "top_p", "top_k", "min_p", "repetition_penalty",
        "generation_config", "stop", "stop_when", "edit", "seed",
    ),
    "What is kept": (
        "keep", "topk", "observe_prompt", "edge_threshold", "edge_cap", "edge_cap_generated",
        "embedder", "embed_scope", "store_dtype",
    ),
    "The run": ("tag", "batch_size", "segment_items", "max_bytes", "strict_timings"),
}  # fmt: skip
"""Fields of the configuration by the heading that they stand under in `lake collect --help`."""
NAMES = {
    "continue_run": "--continue",
    "observe_prompt": "--prompt-telemetry/--no-prompt",
    **{name: "--" + name.replace("_", "-") for name in ("strict_timings", "generation_config", "allow_missing")},
}
"""Options that are called otherwise than their field."""
SPELLED = {"split_lines": "yes|no", "stop_when": "RULE"}
"""What stands for the value of options whose type does not say it."""


COMPLETED = {"model": models}
"""What the shell offers for the values of options."""


class GroupedCommand(TyperCommand):
    """A command whose help lists its options under headings, each with the default that the configuration has."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write one section per heading, in the order of the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(param, "rich_help_panel", None) or CALL, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class CollectCommand(TyperCommand):
    """Stands for `lake collect` until it is called, or its help asked for: only then is the configuration imported."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """The context of the full command."""
        return full_command().make_context(info_name, args, parent, **extra)


def full_command() -> Any:
    """`lake collect` with all of its options."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
    app.command("collect", cls=GroupedCommand, context_settings={"help_option_names": ["-h", "--help"]})(_full_verb())
    return typer.main.get_command(app)


def collect(
    config: Annotated[Path | None, typer.Option(help="YAML file of these settings.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Complete an interrupted run.", autocompletion=runs)
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print tokens, bytes and files; write nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start even if half of the free disk may fill.")] = False,
    as_json: AsJson = False,
    lake: LakePath = HERE,
) -> None:
    """Run a model and record every token, layer, head and activation asked for.

    Settings come from --config, then TRACELAKE_* variables, then these options; later ones win. Example:
    lake collect --model gpt2 --prompts questions.jsonl --samples 4 --keep tokens,layers,activations:resid_post@-1
    """
    _run({}, config=config, resume=resume, dry_run=dry_run, yes=yes, as_json=as_json, lake=lake)


def _run(settings: Json, *, yes: bool, lake: Path, **call: Any) -> None:
    from .collect_run import run_collect

    run_collect(lake, settings, assume_yes=yes, **call)


def _full_verb() -> Callable[..., None]:
    """`collect` with an option per field of the configuration."""
    from ...collect.configuration.config import CollectConfig

    fields = CollectConfig.model_fields

    def verb(**given: Any) -> None:
        settings = {name: given.pop(name) for name in fields}
        _run({name: value for name, value in settings.items() if value not in (None, [], ())}, **given)

    about_the_call = inspect.signature(collect).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter(name, keyword, default=None, annotation=option_of(name, fields[name], heading))
        for name, heading in headed(fields)
    ]
    call = [parameter.replace(kind=keyword) for parameter in about_the_call]
    verb.__signature__ = inspect.Signature([*options, *call])  # type: ignore[attr-defined]
    verb.__doc__ = collect.__doc__
    return verb


def headed(fields: dict[str, "FieldInfo"]) -> Iterator[tuple[str, str]]:
    """The fields in the order of the help, each with its heading."""
    for heading, names in GROUPS.items():
        yield from ((name, heading) for name in names if name in fields)
    known = {name for names in GROUPS.values() for name in names}
    yield from ((name, "More settings") for name in fields if name not in known)


def option_of(name: str, field: "FieldInfo", heading: str) -> Any:
    """The annotation of one option; its default is None, so that it never hides what a file or the environment says."""
    kind, several = _kind(field.annotation)
    choices = "|".join(get_args(kind)) if get_origin(kind) is Literal else None
    metavar = SPELLED.get(name) or choices
    value: Any = str if metavar else kind
    annotation = list[value] | None if several else value | None
    text = (field.description or "").rstrip(".") + ("; may repeat." if several else ".")
    names = [NAMES[name]] if name in NAMES else []
    option = typer.Option(
        *names,
        help=f"{text}{_default(field.default)}",
        metavar=metavar or ("TEXT" if several else None),
        rich_help_panel=heading,
        show_default=False,
        autocompletion=COMPLETED.get(name),
    )
    return Annotated[annotation, option]


def _kind(annotation: Any) -> tuple[Any, bool]:
    """The type of one value, and whether the option may repeat."""
    parts = [part for part in get_args(annotation) if part is not NoneType]
    if get_origin(annotation) is Literal or not parts:
        return annotation, False
    if get_origin(annotation) is tuple:
        return parts[0], True
    return parts[0], False


def _default(value: Any) -> str:
    if value is None or value is False or value == ():
        return ""
    shown = ",".join(value) if isinstance(value, tuple) else "yes" if value is True else value
    return f"  [default: {shown}]"
