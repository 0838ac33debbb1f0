"""`hsmvault audit …`: read and verify the audit trails of a region on this machine."""

from pathlib import Path
from typing import Any

import click

from hsmvault.audit import archiving
from hsmvault.audit.line import encode
from hsmvault.audit.verify import Held, Verified
from hsmvault.cli import printing
from hsmvault.cli.asking import TIMEOUT, at, output_option
from hsmvault.cli.groups import Command, Group
from hsmvault.client.connect import connect
from hsmvault.model.audit_records import AuditHead
from hsmvault.regions.layout import Layout

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_PROFILE = click.Path(dir_okay=False, path_type=Path)


@click.group(cls=Group)
def audit() -> None:
    """Read and verify the audit trails of a region on this machine."""


@audit.command(
    cls=Command,
    examples=[
        "hsmvault audit verify regions/north",
        "hsmvault audit verify regions/north --against south --profile ada.json",
        "hsmvault audit verify regions/north --archive /mnt/archive/north",
    ],
)
@click.argument("directory", type=_DIRECTORY)
@click.option(
    "--against",
    default="",
    metavar="REGION",
    help="Compare with the heads that this region's log has, too.",
)
@click.option(
    "--profile",
    type=_PROFILE,
    envvar="HSMVAULT_PROFILE",
    help="To ask it: an Administrator's or an Auditor's.",
)
@click.option(
    "--archive",
    "archives",
    type=_DIRECTORY,
    multiple=True,
    help="Where older files were moved to; they are verified, too.",
)
@click.option(
    "--archived",
    is_flag=True,
    help="Older files are out of reach: begin with the first that is here.",
)
@output_option
def verify(  # noqa: PLR0917  # click gives them by name
    directory: Path,
    against: str,
    profile: Path | None,
    archives: tuple[Path, ...],
    archived: bool,
    output: str,
) -> None:
    """Tell whether every record of a region's processes stands as it was written.

    Finds what was edited, deleted, moved, cut off, or begun again. Exit code 1 says
    that something was. Records after the newest signed head are only chained: whoever
    can write the files could have computed those anew.
    """
    from hsmvault.server.verifying import verify_region

    if against and profile is None:
        raise click.UsageError("--against needs --profile: who asks that region?")
    held = _asked(directory, against, profile) if against and profile else []
    found = verify_region(directory, held, archives=archives, archived=archived)
    if output == "json":
        printing.dump([_plain(one) for one in found])
    else:
        for one in found:
            _show(one)
    if any(one.findings for one in found):
        raise SystemExit(1)
    printing.note("every record stands as it was written")


@audit.command(
    cls=Command,
    examples=["hsmvault audit archive regions/north /mnt/archive/north"],
)
@click.argument("directory", type=_DIRECTORY)
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
def archive(directory: Path, target: Path) -> None:
    """Move the older files of a region's trails to TARGET, also while it runs.

    What each process goes on from stays. Verify all of it afterwards by
    hsmvault audit verify DIRECTORY --archive TARGET.
    """
    moved = archiving.archive(Layout(directory.absolute()).audit, target)
    for path in moved:
        click.echo(path)
    printing.note(f"{len(moved)} files were moved to {target}")


def _asked(directory: Path, region: str, profile: Path) -> list[Held]:
    """What another region holds of the region in `directory`."""
    from hsmvault.regions.card import Card

    own = Card.parse(Layout(directory.absolute()).card.read_text(encoding="utf-8"))
    with connect((), profile=profile, timeout=TIMEOUT) as vault:
        answer = at(vault, region).regions.audit_heads(own.region)
    return [
        Held(
            AuditHead(
                head.region.removeprefix("regions/"),
                head.process,
                head.segment,
                head.sequence,
                head.chain,
                head.time.ToMilliseconds(),
                head.partition,
                head.signature,
            ),
            f"region {region}",
        )
        for head in answer.heads
    ]


def _plain(one: Verified) -> dict[str, Any]:
    return {
        "process": one.process,
        "records": one.records,
        "last": one.last,
        "signed": one.signed,
        "findings": [
            {"file": f.file, "sequence": f.sequence, "what": f.what}
            for f in one.findings
        ],
    }


def _show(one: Verified) -> None:
    click.secho(one.process, bold=True, nl=False)
    click.echo(f"  {one.records} records, up to {one.last}; signed up to {one.signed}")
    for finding in one.findings:
        where = f"{finding.file}, record {finding.sequence}"
        click.secho(f"  {where}: ", fg="red", nl=False)
        # Its words are ours, but names in them may be anybody's.
        click.echo(encode(finding.what)[1:-1])
