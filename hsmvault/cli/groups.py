"""Commands whose help ends with examples, and lists the connection's options apart."""

from collections.abc import Sequence
from typing import Any

import click

from hsmvault.cli.asking import CONNECTION


class Command(click.Command):
    """A command with examples."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **given: Any) -> None:
        super().__init__(*args, **given)
        self.examples = tuple(examples)

    def format_options(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        own: list[tuple[str, str]] = []
        connection: list[tuple[str, str]] = []
        parameters = self.get_params(ctx)
        # --ca and --output mean something else where nothing is connected to.
        connects = {p.name for p in parameters} >= CONNECTION - {"validate_only"}
        for parameter in parameters:
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                apart = connects and parameter.name in CONNECTION
                of = connection if apart else own
                of.append(record)
        if own:
            with formatter.section("Options"):
                formatter.write_dl(own)
        if connection:
            with formatter.section("Connection"):
                formatter.write_dl(connection)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


class Group(click.Group):
    """A group of such commands. Unknown commands are answered with a near one."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's)
        # In the order in which they were written: as one meets them.
        return list(self.commands)
