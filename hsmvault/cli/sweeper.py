"""`hsmvault sweeper …`: on the machine where a region is."""

import getpass
from pathlib import Path

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import output_option
from hsmvault.cli.groups import Command, Group

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(cls=Group)
def sweeper() -> None:
    """Have a region go on that no longer trusts its clock: to rotate and to purge."""


@sweeper.command(cls=Command, examples=["hsmvault sweeper resume regions/north --yes"])
@click.argument("directory", type=_DIRECTORY)
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def resume(directory: Path, yes: bool, output: str) -> None:
    """Vouch for this machine's wall clock, which ran away from its boot clock.

    What is due is purged once another region's clock agrees, or after a day.
    """
    from hsmvault import config
    from hsmvault.local.manager_client import ManagerClient

    layout = config.load(directory).layout
    if not yes:
        printing.confirm("Is the wall clock of this machine right?")
    manager = ManagerClient(layout)
    try:
        problem = manager.resume_sweeper(getpass.getuser())
    finally:
        manager.close()
    if output == "json":
        printing.dump({"problem": problem})
    else:
        click.echo(f"the clock is trusted again; {problem or 'it had been'}")
