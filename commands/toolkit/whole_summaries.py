"""A group of verbs whose help gives each verb's first sentence whole, on as many lines as it takes."""

from typing import Any

from typer.core import TyperGroup

from .plain_values import with_plain_values


class WholeSummaries(TyperGroup):
    """The group; where sentences would be cut, they are wrapped."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the group's own options."""
        with_plain_values(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that was typed."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            with_plain_values(command.get_params(ctx))  # those of --help are the same in the verb's own context
        return name, command, rest

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
