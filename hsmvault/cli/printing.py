"""How answers look: tables for people, JSON for programs."""

import base64
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table

from hsmvault.v1.region_service_pb2 import ReplicationStatus
from hsmvault.v1.resources_pb2 import Key, KeyVersion, Region, RoleAssignment

_WIDE: Final = 160

_STATES: Final = {
    "ACTIVE": "green",
    "SUCCEEDED": "green",
    "PENDING": "yellow",
    "PROVISIONING": "yellow",
    "PREPROVISIONING": "yellow",
    "AWAITING_CEREMONY": "yellow",
    "DELETING": "yellow",
    "DELETED": "red",
    "FAILED": "red",
    "PURGED": "dim",
}


def console() -> Console:
    """Make the console for answers: made late, so that tests may redirect stdout."""
    found = Console(highlight=False)
    if found.is_terminal or "COLUMNS" in os.environ:
        return found
    # In a file or a pipe there is no edge to cut lines at.
    return Console(highlight=False, width=_WIDE)


def note(text: str) -> None:
    """Say something beside the answer: on stderr, so that pipes stay clean."""
    click.echo(text, err=True)


def dump(value: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def plain(message: Message) -> dict[str, Any]:
    """Return a message as JSON has it: every field, bytes in base64."""
    return MessageToDict(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )


def one(message: Message, rows: Mapping[str, str], *, as_json: bool) -> None:
    """Print one resource."""
    if as_json:
        dump(plain(message))
        return
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, value)
    console().print(table)


def many(
    messages: Iterable[Message],
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    as_json: bool,
    empty: str,
) -> None:
    """Print a list of resources."""
    if as_json:
        dump([plain(message) for message in messages])
        return
    listed = list(rows)
    if not listed:
        note(empty)
        return
    # A column with nothing in it only takes room from the others.
    shown = [n for n in range(len(headings)) if any(row[n] for row in listed)]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for n in shown:
        table.add_column(headings[n])
    for row in listed:
        table.add_row(*(row[n] for n in shown))
    console().print(table)


def state(name: str) -> str:
    """Colour a state."""
    colour = _STATES.get(name, "")
    return f"[{colour}]{name}[/]" if colour else name


def when(time: Timestamp) -> str:
    """Write a time; "" if it is not set."""
    if not time.seconds and not time.nanos:
        return ""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC")


def spec(kind: str, bits: int, curve: str) -> str:
    """Write type and size as one word."""
    return f"{kind} {curve or bits}"


def base64_of(data: bytes) -> str:
    """Write bytes as text."""
    return base64.b64encode(data).decode()


def key_rows(key: Key) -> dict[str, str]:
    """Everything of a key that is worth a line."""
    return {
        "name": key.name,
        "type": spec(key.spec.type, key.spec.bits, key.spec.curve),
        "state": state(Key.State.Name(key.state)) + ("" if key.enabled else ", off"),
        "operations": ", ".join(key.operations),
        "current version": key.current_version,
        "pending": ", ".join(key.pending_versions),
        "not before": when(key.not_before_time),
        "expires": when(key.expire_time),
        "tags": ", ".join(f"{k}={v}" for k, v in sorted(key.tags.items())),
        "deletion protection": "on" if key.deletion_protection else "",
        "created": when(key.create_time),
        "deleted": when(key.delete_time),
        "purged on": when(key.purge_time),
        "recovery level": key.recovery_level,
        "etag": key.etag,
        "position": key.position,
    }


def key_row(key: Key) -> Sequence[str]:
    """A key in a list."""
    return (
        key.name,
        spec(key.spec.type, key.spec.bits, key.spec.curve),
        state(Key.State.Name(key.state)),
        "yes" if key.enabled else "no",
        when(key.update_time),
        key.position,
    )


def deleted_row(key: Key) -> Sequence[str]:
    """A soft-deleted key in a list."""
    return (
        key.name,
        spec(key.spec.type, key.spec.bits, key.spec.curve),
        when(key.delete_time),
        when(key.purge_time),
        key.recovery_level,
    )


def version_rows(version: KeyVersion) -> dict[str, str]:
    """Everything of a key version that is worth a line."""
    return {
        "name": version.name,
        "type": spec(version.spec.type, version.spec.bits, version.spec.curve),
        "state": state(KeyVersion.State.Name(version.state))
        + (", current" if version.current else "")
        + (", imported" if version.imported else "")
        + ("" if version.enabled else ", off"),
        "regions": ", ".join(version.regions),
        "created": when(version.create_time),
        "etag": version.etag,
        "position": version.position,
    }


def version_row(version: KeyVersion) -> Sequence[str]:
    """A key version in a list."""
    return (
        version.name.rpartition("/")[2],
        state(KeyVersion.State.Name(version.state)),
        "current" if version.current else "",
        "yes" if version.enabled else "no",
        ", ".join(version.regions),
        when(version.create_time),
        "imported" if version.imported else "",
    )


def assignment_row(assignment: RoleAssignment, title: str) -> Sequence[str]:
    """A role assignment in a list."""
    return (
        assignment.name.removeprefix("roleAssignments/"),
        assignment.principal,
        title,
        assignment.scope,
        ", ".join(r.removeprefix("regions/") for r in assignment.regions),
        when(assignment.create_time),
    )


def region_row(region: Region) -> Sequence[str]:
    """A region in a list."""
    return (
        region.name.removeprefix("regions/"),
        "primary" if region.primary else "extended",
        state(Region.State.Name(region.state)),
        region.zone,
        region.endpoint,
        when(region.update_time),
        region.problem,
    )


REGION_HEADINGS: Final = (
    "region",
    "kind",
    "state",
    "zone",
    "endpoint",
    "since",
    "problem",
)


def progress_row(status: ReplicationStatus.RegionStatus) -> Sequence[str]:
    """How far a region has come, in a list."""
    seconds = status.lag.ToTimedelta().total_seconds()
    lag = f"{status.lag_entries} entries, {seconds:.1f} s"
    return (
        status.region.removeprefix("regions/"),
        "primary" if status.primary else "extended",
        state(Region.State.Name(status.state)),
        "" if status.primary else "yes" if status.connected else "[red]no[/]",
        status.watermark,
        "" if status.primary else lag,
        "" if status.primary else f"{status.migration_percent} %",
        status.summary,
    )


def ask_secret(question: str, *, instead: str, twice: bool = False) -> str:
    """Have a secret typed. Where nobody can type it, say what to do `instead`."""
    try:
        secret: str = click.prompt(
            question, hide_input=True, confirmation_prompt=twice, err=True
        )
    except click.Abort:
        if not sys.stdin.isatty():
            message = f"nobody is there to type it; {instead}"
            raise click.UsageError(message) from None
        raise
    return secret


def confirm(question: str, *, instead: str = "--yes") -> None:
    """Go on only after a yes. Where nobody can be asked, say how to answer."""
    try:
        yes = click.confirm(question, err=True)
    except click.Abort:
        if not sys.stdin.isatty():
            message = f"nobody is there to confirm it; add {instead} if you mean it"
            raise click.UsageError(message) from None
        raise
    if not yes:
        raise click.Abort
