"""`hsmvault watch`: every change as it happens."""

import json
from itertools import islice
from typing import Final

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, connected
from hsmvault.cli.groups import Command
from hsmvault.v1.resources_pb2 import Key, KeyVersion, Region
from hsmvault.v1.vault_service_pb2 import Change

KINDS: Final = tuple(name.lower() for name in Change.Kind.keys()[1:])


@click.command(
    cls=Command,
    examples=[
        "hsmvault watch",
        "hsmvault watch --from 1.north.42 --kind key --scope /keys/payroll",
        "hsmvault watch --output json --count 10",
    ],
)
@click.option(
    "--from", "position", default="", metavar="POSITION", help="Not from now on."
)
@click.option("--scope", default="/", show_default=True, help="/, /keys, /keys/KEY")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(KINDS),
    help="Only these. May be repeated.",
)
@click.option("--count", type=click.IntRange(1), help="End after so many changes.")
@connected
def watch(
    asking: Asking,
    *,
    position: str,
    scope: str,
    kinds: tuple[str, ...],
    count: int | None,
) -> None:
    """Show every change that you may read, as it happens, until interrupted.

    With --output json, one line of JSON for each. The position of the last one goes
    on where this ends: --from POSITION.
    """
    changes = asking.vault.watch(position=position, scope=scope, kinds=kinds)
    if not asking.as_json:
        printing.note("watching; Ctrl-C ends it")
    try:
        for change in islice(changes, count):
            if asking.as_json:
                click.echo(json.dumps(printing.plain(change), ensure_ascii=False))
            else:
                click.echo("  ".join(_words(change)))
    finally:
        changes.close()


def _words(change: Change) -> list[str]:
    kind = Change.Kind.Name(change.kind).lower()
    said = "removed" if change.removed else _said(change)
    return [printing.when(change.time), change.position, kind, change.name, said]


def _said(change: Change) -> str:
    if change.HasField("key"):
        off = "" if change.key.enabled else ", off"
        return Key.State.Name(change.key.state) + off
    if change.HasField("key_version"):
        off = "" if change.key_version.enabled else ", off"
        return KeyVersion.State.Name(change.key_version.state) + off
    if change.HasField("role_assignment"):
        made = change.role_assignment
        return f"{made.principal} at {made.scope}"
    if change.HasField("role_definition"):
        return change.role_definition.title
    if change.HasField("region"):
        return Region.State.Name(change.region.state)
    return "changed"
