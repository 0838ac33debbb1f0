"""`hsmvault audit tail`: what was recorded last, and what is, by all of a region."""

import datetime
import re
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from hsmvault.audit import reading
from hsmvault.audit.line import encode
from hsmvault.cli import printing
from hsmvault.cli.asking import output_option
from hsmvault.cli.groups import Command
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions.layout import Layout

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Record = dict[str, Any]


@click.command(
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
