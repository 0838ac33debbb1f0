"""`hsmvault audit …`: read and verify the audit trails of a region on this machine."""

import datetime
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from hsmvault.audit import archiving, reading
from hsmvault.audit.line import encode
from hsmvault.audit.verify import Held, Verified
from hsmvault.cli import printing
from hsmvault.cli.asking import TIMEOUT, at, output_option
from hsmvault.cli.groups import Command, Group
from hsmvault.client.connect import connect
from hsmvault.model.audit_records import AuditHead
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.layout import Layout

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_PROFILE = click.Path(dir_okay=False, path_type=Path)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


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


@audit.command(
    cls=Command,
    examples=[
        "hsmvault audit tail regions/north -f",
        "hsmvault audit tail regions/north --method Sign --code PERMISSION_DENIED",
        "hsmvault audit tail regions/north --since 2h --output json | jq .principal",
    ],
)
@click.argument("directory", type=_DIRECTORY)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="So many at first; with --since, all of them.",
)
@click.option("--principal", default="", help="Only of this caller.")
@click.option("--method", default="", help="Only of this RPC, as Sign; or event.")
@click.option("--resource", default="", help="Only at or below, as keys/payroll.")
@click.option("--code", default="", help="Only answered so, as NOT_FOUND.")
@click.option("--since", default="", help="From a time on, or 90s, 15m, 2h, 7d ago.")
@output_option
def tail(
    directory: Path, follow: bool, count: int, since: str, output: str, **wanted: str
) -> None:
    """Show what was recorded last, by all processes of a region, in order of time."""
    matches = _matching(wanted, _since(since))
    show = _lines if output == "json" else _text
    trails = Layout(directory.absolute()).audit
    # One place where the past ends and what follows begins: nothing is missed between.
    now = _ends(trails)
    recent = filter(matches, reading.merged(trails, until=now))
    shown = 0
    for record in recent if since else deque(recent, maxlen=count):
        show(record)
        shown += 1
    if not shown:
        printing.note("nothing that fits was recorded yet")
    grown = reading.following(trails, after=now) if follow else iter(())
    for record in filter(matches, grown):
        show(record)


def _ends(trails: Path) -> reading.Ends:
    try:
        return reading.ends(trails)
    except OSError as error:
        raise ConfigurationError(
            f"cannot read an audit trail in {trails}: {error.strerror}; name the "
            "directory of a region that was served, as its owner: hsmvault audit tail "
            "DIR"
        ) from error


Record = dict[str, Any]


def _matching(wanted: dict[str, str], since: str) -> Callable[[Record], bool]:
    def at(record: Record) -> bool:
        asked = f"{wanted['resource'].strip('/')}/".lower()
        return any(f"{name}/".lower().startswith(asked) for name in _about(record))

    def of(record: Record) -> bool:
        method = str(record.get("method", record.get("event", "")))
        return method == wanted["method"] or method.endswith(f"/{wanted['method']}")

    tests: list[Callable[[Record], bool]] = []
    if since:
        tests.append(lambda record: str(record.get("time", "")) >= since)
    if wanted["resource"]:
        tests.append(at)
    if wanted["method"]:
        tests.append(of)
    if wanted["principal"]:
        tests.append(lambda record: record.get("principal") == wanted["principal"])
    if wanted["code"]:
        tests.append(lambda record: record.get("code") == wanted["code"])
    return lambda record: all(test(record) for test in tests)


def _about(record: Record) -> Iterator[str]:
    """What a record is about: also each item of a batch."""
    for one in (record, *record.get("items", ())):
        for name in ("resource", "version"):
            yield str(one.get(name, "")).lstrip("/")


def _since(text: str) -> str:
    """Return a time as records have it."""
    if not text:
        return ""
    try:
        if match := re.fullmatch(r"(\d{1,9})([smhd])", text):
            ago = datetime.timedelta(seconds=int(match[1]) * _UNITS[match[2]])
            time = datetime.datetime.now(datetime.UTC) - ago
        else:
            time = datetime.datetime.fromisoformat(text)
        zoned = time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
        plain = zoned.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        message = f"--since {text}: give a time, as 2026-03-01T12:00, or 15m, 2h, 7d"
        raise click.UsageError(message) from error
    return plain.isoformat(timespec="seconds")


def _lines(record: Record) -> None:
    click.echo(encode(record))


def _text(record: Record) -> None:
    """One line for people. Whatever callers put into names stays escaped."""
    parts = list(_parts(record))
    click.echo("  ".join(part for part in parts if part))


def _parts(record: Record) -> Iterator[str]:
    def safe(name: str) -> str:
        return encode(str(record.get(name, "")))[1:-1]

    yield safe("time")
    yield f"{safe('region')}/{safe('process')}"
    if record.get("event") != "call":
        yield safe("event")
        yield safe("resource")
    else:
        yield safe("code")
        yield safe("method").rpartition("/")[2]
        yield safe("version") or safe("resource")
        yield safe("principal")
        yield safe("reason")
    if items := record.get("items"):
        yield f"{len(items)} items"
    if facts := record.get("facts"):
        yield encode(facts)
