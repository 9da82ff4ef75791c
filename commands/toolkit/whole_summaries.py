"""A group of verbs whose help gives each verb's first sentence whole, on as many lines as it takes."""

from typing import Any

from typer.core import TyperGroup


class WholeSummaries(TyperGroup):
    """The group; where sentences would be cut, they are wrapped."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs in their order, each with its first sentence."""
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                rows.append((name, " ".join(command.get_short_help_str(limit=500).split())))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)
