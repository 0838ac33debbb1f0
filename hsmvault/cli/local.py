"""`hsmvault serve`, `ceremony`, `partition`: on the machine where a region is."""

from pathlib import Path

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import output_option
from hsmvault.cli.groups import Command, Group
from hsmvault.regions.layout import PARTITIONS

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(
    cls=Command,
    examples=[
        "hsmvault serve --region regions/north",
        "hsmvault serve --region regions/north --detach",
    ],
)
@click.option("--region", "directory", required=True, type=_DIRECTORY, metavar="DIR")
@click.option("--detach", is_flag=True, help="In the background; logs go to DIR/logs.")
def serve(directory: Path, detach: bool) -> None:
    """Run a region: the one process to start. SIGTERM drains it."""
    if detach:
        from hsmvault.server.running import start_region

        pid = start_region(directory)
        click.echo(f"serving {directory} as process {pid}")
        return
    from hsmvault.server import supervisor

    raise SystemExit(supervisor.serve(directory))


@click.command(cls=Command, examples=["hsmvault ceremony regions/north"])
@click.argument("directory", type=_DIRECTORY)
def ceremony(directory: Path) -> None:
    """Be the security officer of a running region: type its SO PINs, and stay.

    Adding or removing regions waits in AWAITING_CEREMONY until somebody does. The PINs
    go to processes that end with this command; they are kept nowhere.
    """
    from hsmvault import config
    from hsmvault.local.attending import attend
    from hsmvault.server.manager import officer_tokens

    settings = config.load(directory)
    pins = {
        name: printing.ask_secret(
            f"SO PIN of {name}", instead="run it at a terminal, or pipe them in"
        )
        for name in PARTITIONS
    }
    printing.note("attached; Ctrl-C ends it")
    attend(settings.layout, officer_tokens(settings), pins, told=printing.note)


@click.group(cls=Group)
def partition() -> None:
    """Look at HSM partitions."""


@partition.command(cls=Command, examples=["hsmvault partition probe regions/north"])
@click.argument("directory", type=_DIRECTORY)
@output_option
def probe(directory: Path, output: str) -> None:
    """Show what each of a region's tokens is and can, without logging in."""
    from hsmvault.server.probing import probe_region

    found = probe_region(directory)
    if output == "json":
        printing.dump(found)
        return
    for name, facts in found.items():
        click.secho(name, bold=True)
        width = max(map(len, facts))
        for fact, value in facts.items():
            click.echo(f"  {fact:<{width}}  {value}")
