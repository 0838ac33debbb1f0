"""`hsmvault region …`: what the vault's regions are, and how far each has come."""

from pathlib import Path

import click

from hsmvault.cli import adding, bars, printing
from hsmvault.cli.asking import Asking, changing, connected
from hsmvault.cli.groups import Command, Group
from hsmvault.v1.resources_pb2 import Region


@click.group(cls=Group)
def region() -> None:
    """Make, add, remove and follow regions."""


@region.command(
    cls=Command,
    examples=[
        "hsmvault region add regions/south",
        "hsmvault region add south-card.json --fingerprint 5f0c… --yes",
    ],
)
@click.argument("card", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--fingerprint",
    default="",
    metavar="HEX",
    help="As the region's operator reads it out.",
)
@click.option("--yes", is_flag=True, help="Take the card's own fingerprint.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it has everything.")
@changing
def add(asking: Asking, card: Path, fingerprint: str, yes: bool, no_wait: bool) -> None:
    """Add the region of CARD: its card.json, or its directory.

    Its keys go there from now on, so make sure that it is the region you mean: its
    operator sees the fingerprint in `hsmvault region card DIR`.
    """
    read = adding.read_card(card)
    if not fingerprint and not yes:
        printing.note(f"{read.region} at {read.endpoint}")
        printing.note(f"fingerprint {read.fingerprint}")
        printing.confirm(
            "Does its operator see the same fingerprint?",
            instead="--fingerprint HEX, or --yes",
        )
    fingerprint = fingerprint or read.fingerprint
    # What is only validated never comes.
    if no_wait or asking.connection.validate_only:
        made = asking.vault.regions.add(adding.described(read), fingerprint)
    else:
        with bars.region(f"adding {read.region}") as watching:
            made = adding.add(
                asking.vault, read, fingerprint=fingerprint, watching=watching
            )
        printing.note(
            f'name {read.endpoint} in profiles, too ("endpoints"): for when other '
            "regions are away"
        )
    _show(asking, made)


@region.command(cls=Command, examples=["hsmvault region remove south --yes"])
@click.argument("name")
@click.option("--force", is_flag=True, help="Do not wait until it has everything.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@changing
def remove(asking: Asking, name: str, force: bool, yes: bool) -> None:
    """Remove an extended region: its tokens are re-initialised, its store deleted.

    The order is signed with your own key: the region destroys itself on nothing less.
    """
    checking = asking.connection.validate_only
    if not yes and not checking:
        printing.confirm(
            f"Destroy everything that region {name} holds? It is not soft-deleted."
        )
    certificate, key = asking.connection.identity()
    if checking:
        vault_id = asking.vault.regions.topology().vault_id
        order = adding.authorization(vault_id, name, certificate=certificate, key=key)
        _show(asking, asking.vault.regions.remove(name, order, force=force))
        return
    with bars.region(f"removing {name}") as watching:
        gone = adding.remove(
            asking.vault,
            name,
            certificate=certificate,
            key=key,
            force=force,
            watching=watching,
        )
    _show(asking, gone)


@region.command("list", cls=Command, examples=["hsmvault region list --purged"])
@click.option("--purged", is_flag=True, help="Also those that were removed.")
@connected
def list_regions(asking: Asking, purged: bool) -> None:
    """List the regions of the vault."""
    found = asking.vault.regions.list(purged=purged)
    printing.many(
        found,
        printing.REGION_HEADINGS,
        (printing.region_row(r) for r in found),
        as_json=asking.as_json,
        empty="no regions",
    )


@region.command(
    cls=Command,
    examples=[
        "hsmvault region wait 1.north.42 --at south",
        "hsmvault region wait --added south",
    ],
)
@click.argument("position", required=False, default="")
@click.option("--added", default="", metavar="REGION", help="Until it has everything.")
@click.option("--seconds", default=10.0, show_default=True, help="At most this long.")
@connected
def wait(asking: Asking, position: str, added: str, seconds: float) -> None:
    """Wait until a region has reached a position, or was added."""
    if bool(position) == bool(added):
        raise click.UsageError("name a position, or --added with a region")
    if position:
        reached = asking.vault.regions.wait(position, seconds=seconds)
        if asking.as_json:
            printing.dump({"position": reached})
        else:
            click.echo(reached)
        return
    with bars.region(added) as watching:
        for shown, percent in asking.vault.regions.watch(added, seconds=seconds):
            watching(shown, percent)


@region.command(cls=Command, examples=["hsmvault region status --output json"])
@connected
def status(asking: Asking) -> None:
    """Show how far every region has come, as the answering region knows it."""
    answer = asking.vault.regions.status()
    if asking.as_json:
        printing.dump(printing.plain(answer))
        return
    printing.many(
        [answer],
        ("region", "kind", "state", "linked", "watermark", "lag", "done", ""),
        (printing.progress_row(r) for r in answer.regions),
        as_json=False,
        empty="no regions",
    )
    for alarm in answer.alarms:
        click.secho(f"alarm: {alarm}", fg="red")


@region.command(cls=Command, examples=["hsmvault region card regions/south"])
@click.argument("directory", type=click.Path(exists=True, path_type=Path))
def card(directory: Path) -> None:
    """Show a region's card: what others must know, and its fingerprint."""
    read = adding.read_card(directory)
    click.echo(f"region       {read.region}")
    click.echo(f"zone         {read.zone}")
    click.echo(f"endpoint     {read.endpoint}")
    click.echo(f"fingerprint  {read.fingerprint}")


def _show(asking: Asking, shown: Region) -> None:
    rows = dict(zip(printing.REGION_HEADINGS, printing.region_row(shown), strict=True))
    printing.one(shown, rows, as_json=asking.as_json)
