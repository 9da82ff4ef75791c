"""`lake sql` without SQL in a terminal: a small shell with history and completion of names."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...lake.errors import LakeError
from ...lake.values import Json
from ..terminal import say
from .rows import print_rows
from .streams import steering

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completion
    from prompt_toolkit.document import Document

    from ...facade.open_lake import OpenLake

HELP = """One SELECT, ended by `;` or an empty line; Tab completes names, the up arrow brings back what was asked.
  \\d          tables and views          \\d NAME   columns of one, with their meaning
  \\x          one line per value or a table            \\q   end (also Ctrl-D)"""
KEYWORDS = (
    *("select", "from", "where", "group by", "order by", "having", "limit", "join", "left join", "using", "on", "as"),
    *("and", "or", "not", "is null", "is not null", "distinct", "case", "when", "then", "else", "end", "with", "union"),
    *("desc", "count(*)", "avg(", "sum(", "min(", "max(", "quantile_cont(", "list_cosine_similarity(", "describe"),
)


class Names:
    """Completes tables, views, columns and keywords; implements prompt_toolkit's completer."""

    def __init__(self, schema: list[Json]) -> None:
        self.tables = {table["table"]: table["doc"] for table in schema}
        self.columns: dict[str, str] = {}
        for table in schema:
            for column in table["columns"]:
                self.columns.setdefault(column["name"], f"{table['table']}: {column['doc']}")

    def matching(self, text: str) -> Iterator[tuple[str, str]]:
        """Names that begin with the word that is being typed, tables first, each with its meaning."""
        word = last_word(text)
        before = text[: len(text) - len(word)].split()
        wants_table = bool(before) and before[-1].lower() in ("from", "join", "\\d", "describe")
        sources: list[Mapping[str, str]] = [self.tables]
        if not wants_table and word:
            sources += [self.columns, dict.fromkeys(KEYWORDS, "")]
        for source in sources:
            yield from ((name, doc) for name, doc in source.items() if name.startswith(word.lower()))

    def get_completions(self, document: "Document", event: object) -> "Iterator[Completion]":
        """What prompt_toolkit asks for."""
        from prompt_toolkit.completion import Completion

        text = document.text_before_cursor
        for name, doc in self.matching(text):
            yield Completion(name, start_position=-len(last_word(text)), display_meta=doc[:70])


def last_word(text: str) -> str:
    """The name that is being typed at the end of a text."""
    word = text
    for index in range(len(text) - 1, -1, -1):
        if not (text[index].isalnum() or text[index] == "_"):
            word = text[index + 1 :]
            break
    return word


def history_file() -> Path:
    """Where what was asked is kept, for this user only."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    folder = Path(state) / "tracelake"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / "sql_history"


def run_shell(lake: "OpenLake", run: str | None, *, vertical: bool = False) -> None:
    """Ask until the user ends it; a mistake is a message, and the next statement can be typed."""
    session = _session()
    about = "\n".join(repr(lake).splitlines()[:-1])  # its last line is for Python
    say(f"{about}\n\n{HELP}\n")
    lines: list[str] = []
    while True:
        try:
            line = session.prompt("lake> " if not lines else "   -> ")
        except KeyboardInterrupt:
            lines = []
            continue
        except EOFError:
            return
        word, _, rest = line.strip().partition(" ")
        if not lines and word in ("\\q", "quit", "exit"):
            return
        if not lines and word == "\\x":
            vertical = not vertical
        elif not lines and word in ("\\h", "\\?", "help"):
            say(HELP)
        elif not lines and word == "\\d":
            _answer(lake, f"describe {rest}" if rest.strip() else "show tables", run, vertical)
        else:
            lines += [line] if line.strip() else []
            if lines and (not line.strip() or line.rstrip().endswith(";")):
                _answer(lake, "\n".join(lines).rstrip().rstrip(";"), run, vertical)
                lines = []


def _session() -> Any:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.output import create_output

    from ...queries.description import describe_schema

    names = Names(describe_schema())

    class NamesCompleter(Completer):
        """The names as prompt_toolkit wants them."""

        def get_completions(self, document: Any, complete_event: Any) -> Any:
            return names.get_completions(document, complete_event)

    try:
        history: Any = FileHistory(str(history_file()))
    except OSError:
        history = InMemoryHistory()
    output = create_output(stdout=steering(sys.stdout))  # it moves the cursor; answers go through ours
    return PromptSession(history=history, completer=NamesCompleter(), complete_while_typing=False, output=output)


def _answer(lake: "OpenLake", statement: str, run: str | None, vertical: bool) -> None:
    values = {"run": lake.resolve_run(run)} if run is not None and "$run" in statement else None
    try:
        print_rows(lambda: lake.arrow(statement, values, run=run), None, vertical=vertical)
    except LakeError as error:
        say(f"lake: {error}")
