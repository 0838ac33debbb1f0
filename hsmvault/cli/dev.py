"""`hsmvault dev …`: two regions on this machine, to try and to develop against."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from hsmvault.cli import adding, bars, printing
from hsmvault.cli.asking import output_option
from hsmvault.cli.founding import write_profile
from hsmvault.cli.groups import Command, Group
from hsmvault.client.connect import connect
from hsmvault.client.profile import Profile

if TYPE_CHECKING:
    from hsmvault.server.dev import Dev

DEFAULT: Final = Path(".hsmvault-dev")

CALLERS: Final[Mapping[str, str]] = {
    "alice": "Managed HSM Crypto User",
    "otto": "Managed HSM Crypto Officer",
    "audrey": "Managed HSM Crypto Auditor",
}
"""Whom a trial has beside its administrator, and what they may do."""

_DIR = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT,
    show_default=True,
)


@click.group(cls=Group)
def dev() -> None:
    """Two regions on this machine, to try and to develop against."""


def add_region(running: "Dev", name: str, *, watching: adding.Watching) -> None:
    """Add a region that is being served, as the administrator."""
    card = running.region(name).card
    with connect(
        [r.endpoint for r in running.regions.values()],
        certificate=running.admin.certificate,
        key=running.admin.key,
        ca=running.admin.ca,
    ) as vault:
        known = {r.name for r in vault.regions.list()}
        if f"regions/{name}" in known:
            # An earlier attempt came this far; wait for what it began.
            for shown, percent in vault.regions.watch(name):
                watching(shown, percent)
            return
        adding.add(vault, card, fingerprint=card.fingerprint, watching=watching)


def make_callers(running: "Dev") -> None:
    """Give a trial its callers: certificates, roles, profiles."""
    from hsmvault.regions.certificates import add_caller

    endpoints = tuple(r.endpoint for r in running.regions.values())
    write_profile(running.admin, running.callers / "admin.json", endpoints=endpoints)
    with connect(profile=running.callers / "admin.json") as vault:
        for name, role in CALLERS.items():
            profile = running.callers / f"{name}.json"
            if not profile.exists():
                files = add_caller(running.ca_directory, name, running.callers)
                vault.roles.assign(files.principal, role, scope="/")
                write_profile(files, profile, endpoints=endpoints)
                continue
            # A region that was made anew listens elsewhere.
            known = Profile.load(profile)
            dataclasses.replace(known, endpoints=endpoints).save(profile)


def bring_up(directory: Path, regions: tuple[str, ...]) -> "Dev":
    """Start regions in `directory`, new or as they were left, with their callers."""
    from hsmvault.server.dev import dev_up

    with bars.steps("starting") as progress:
        running = dev_up(
            directory,
            regions,
            add_region=lambda dev, name: add_region(
                dev, name, watching=progress.region
            ),
            progress=progress,
        )
    make_callers(running)
    return running


def tell_how_to_go_on(running: "Dev", directory: Path) -> None:
    """Print where everything is, and the first commands."""
    callers = running.callers
    click.echo()
    click.secho("Regions", bold=True)
    for name, region in running.regions.items():
        click.echo(f"  {name:<8} {region.endpoint:<22} {region.directory}")
    click.secho("Callers", bold=True)
    for name, role in {"admin": "Managed HSM Administrator", **CALLERS}.items():
        profile = f"{callers / name}.json"
        click.echo(f"  {name:<8} {role.removeprefix('Managed HSM '):<22} {profile}")
    click.echo(f"  certificates and keys beside them; the CA is {callers / 'ca.pem'}")
    click.secho("Go on", bold=True)
    for line in (
        f"export HSMVAULT_PROFILE={(callers / 'alice.json').absolute()}",
        "hsmvault key create payroll",
        "echo -n hello | hsmvault crypto sign payroll --algorithm ES256",
        "hsmvault key get payroll --at south",
        f"hsmvault status --profile {callers / 'admin.json'}",
        f"hsmvault dev down --dir {directory}",
    ):
        click.echo(f"  {line}")


@dev.command(
    cls=Command, examples=["hsmvault dev up", "hsmvault dev up --region north"]
)
@_DIR
@click.option(
    "--region", "regions", multiple=True, default=("north", "south"), show_default=True
)
def up(directory: Path, regions: tuple[str, ...]) -> None:
    """Start regions, making what is not there yet; the first is the primary."""
    running = bring_up(directory, regions)
    tell_how_to_go_on(running, directory)


def _note_if_none(found: Sequence[object], directory: Path) -> bool:
    """Say so where there are no regions; True if there are none."""
    if not found:
        printing.note(f"no regions in {directory}; hsmvault dev up makes two")
    return not found


@dev.command(cls=Command, examples=["hsmvault dev status"])
@_DIR
@output_option
def status(directory: Path, output: str) -> None:
    """Show which processes run."""
    from hsmvault.server.dev import dev_status

    found = dev_status(directory)
    processes = {r.name: r.status.get("processes", []) for r in found}
    if output == "json":
        printing.dump(
            [
                {
                    "region": r.name,
                    "directory": str(r.directory),
                    "endpoint": r.endpoint,
                    "pid": r.pid,
                    "purged": r.purged,
                    "processes": processes[r.name],
                }
                for r in found
            ]
        )
        return
    _note_if_none(found, directory)
    for region in found:
        running = f"pid {region.pid}" if region.pid else "not running"
        if region.purged:
            running = "removed from the vault, and purged"
        click.echo(f"{region.name}  {region.endpoint}  {running}")
        for process in processes[region.name] if region.pid else ():
            problem = process.get("problem") or ""
            click.echo(f"  {process['name']:<8} {process['state']:<10} {problem}")


@dev.command(cls=Command, examples=["hsmvault dev down"])
@_DIR
def down(directory: Path) -> None:
    """Stop the regions; what they hold stays, for the next `dev up`."""
    from hsmvault.server.dev import dev_down, dev_status

    if _note_if_none(dev_status(directory), directory):
        return
    with bars.steps("stopping") as progress:
        dev_down(directory, progress=progress)
