"""The verbs of `lake` as data: a verb is imported when it is named, and listing them imports none."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

from .toolkit.either_run import either_run
from .toolkit.verify_option import reading
from .toolkit.whole_summaries import WholeSummaries


@dataclass(frozen=True)
class Verb:
    """Where a verb is, and what the list of verbs says of it."""

    module: str
    """Of this package."""
    attribute: str
    """The function; of a group, its Typer."""
    summary: str
    """The first sentence of its help, which a test compares with it."""
    run_both_ways: bool = False
    """Its run may be given as an argument and as --run."""
    reads: bool = False
    """It has --verify."""
    made_by: str | None = None
    """Class of its command, in the same module."""

    def app(self, name: str) -> typer.Typer:
        """A program with nothing but this verb, or this group of verbs."""
        module = import_module(f".{self.module}", __package__)
        verb = getattr(module, self.attribute)
        alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        if isinstance(verb, typer.Typer):
            alone.add_typer(verb, name=name)
        else:
            verb = either_run(verb) if self.run_both_ways else verb
            made_by = getattr(module, self.made_by) if self.made_by else TyperCommand
            alone.command(name, cls=made_by)(reading(verb) if self.reads else verb)
        return alone

    def command(self, name: str) -> Any:
        """The verb, or the group of verbs, ready to be called."""
        return typer.main.get_group(self.app(name)).commands[name]


VERBS = {
    "collect": Verb(
        "collecting.collect",
        "collect",
        "Run a model and record every token, layer, head and activation asked for.",
        made_by="CollectCommand",
    ),
    "runs": Verb("ask", "runs", "List the runs of the lake, newest first."),
    "show": Verb(
        "ask",
        "show",
        "Show one run: its model, configuration, tables and sizes; or its health as it comes, its timings, the schema.",
        run_both_ways=True,
        reads=True,
    ),
    "sql": Verb(
        "ask",
        "sql",
        "Ask the lake in SQL (DuckDB): one SELECT, which can read this lake and nothing else.",
        run_both_ways=True,
        reads=True,
    ),
    "query": Verb("ask", "query", "Run a saved query, or list them all.", run_both_ways=True, reads=True),
    "chart": Verb(
        "ask",
        "chart",
        "Draw a saved query into a picture, an offline page or a Vega-Lite file.",
        run_both_ways=True,
        reads=True,
    ),
    "report": Verb(
        "show_run",
        "report",
        "Write one run as an HTML page that needs no network: health, uncertainty, tokens, layers, heads, time.",
        run_both_ways=True,
        reads=True,
    ),
    "metrics": Verb(
        "metrics",
        "metrics",
        "Give a run's numbers to Prometheus or Datadog: counts, uncertainty, flags, risk, time, sizes; never any text.",
        run_both_ways=True,
        reads=True,
    ),
    "dashboard": Verb(
        "show_run",
        "dashboard",
        "Look through the lake in a browser: runs, charts, sequences, two runs side by side, SQL.",
        reads=True,
    ),
    "verify": Verb(
        "maintain",
        "verify",
        "Check that the files on disk are what the commit records say.",
        run_both_ways=True,
    ),
    "rm": Verb(
        "maintain",
        "rm",
        "Remove a run: it leaves all views at once; `lake vacuum` frees its bytes later.",
        run_both_ways=True,
    ),
    "vacuum": Verb("maintain", "vacuum", "Delete what removed runs and dead collectors left behind."),
    "demo": Verb("collecting.demo", "demo", "The main job on the bundled model: collect, ask in SQL, draw charts."),
    "analyze": Verb(
        "analyses.analyze",
        "app",
        "Compute from stored runs into derived tables; the same question is looked up, not computed again.",
    ),
    "experiment": Verb(
        "experiment",
        "app",
        "Experiments: steps of a configuration file, or the model over a run's stored sequences again; resumable.",
    ),
    "sae": Verb(
        "sae.train",
        "app",
        "Sparse autoencoders: train them from stored vectors, evaluate them, look their features up.",
    ),
    "import": Verb("exchange", "import_app", "Read other programs' records into the lake."),
    "export": Verb("exchange", "export_app", "Write rows of the lake for other programs."),
}
"""In the order of the help."""


class MadeWhenNamed(Mapping[str, Any]):
    """Verbs by name, each imported when it is asked for."""

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self._verbs, self._made = verbs, dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._verbs[name].command(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._verbs

    def __iter__(self) -> Iterator[str]:
        return iter(self._verbs)

    def __len__(self) -> int:
        return len(self._verbs)


class VerbGroup(WholeSummaries):
    """`lake` itself: what is listed comes from the table, what is called from its module."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = MadeWhenNamed(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb called so, if there is one."""
        return self.commands[cmd_name] if cmd_name in self.commands else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs in their order, each with its first sentence."""
        self._listed().format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Verbs and options that begin so."""
        ctx.command = self._listed()  # the verbs that are offered are those of the context's command
        try:
            return ctx.command.shell_complete(ctx, incomplete)
        finally:
            ctx.command = self

    def _listed(self) -> WholeSummaries:
        """The group with nothing but names and sentences."""
        said: dict[str, Any] = {name: TyperCommand(name, help=verb.summary) for name, verb in VERBS.items()}
        return WholeSummaries(name=self.name, commands=said, params=self.params)
