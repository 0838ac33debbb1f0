"""`hsmvault key rotation …` and `hsmvault key activate`: new versions, and when."""

import datetime as dt
import re
from collections.abc import Mapping

import click
from google.protobuf.duration_pb2 import Duration

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, changing, connected
from hsmvault.cli.groups import Command, Group
from hsmvault.v1.key_service_pb2 import RotationPolicy

_DAYS = {"D": 1, "W": 7}


def duration(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> dt.timedelta | None:
    """Read an ISO 8601 duration of days or weeks; months and years have no length."""
    if text is None:
        return None
    read = re.fullmatch(r"P(\d{1,6})([DW])", text)
    if read is None:
        message = f"{text!r} is no duration in days or weeks; write P90D or P12W"
        raise click.BadParameter(message)
    return dt.timedelta(days=int(read[1]) * _DAYS[read[2]])


@click.group(cls=Group)
def rotation() -> None:
    """Show and set when keys rotate by themselves."""


@rotation.command(cls=Command, examples=["hsmvault key rotation show payroll"])
@click.argument("name")
@connected
def show(asking: Asking, name: str) -> None:
    """Show when a key rotates by itself."""
    _print(asking, asking.vault.keys.rotation_policy(name))


@rotation.command(
    "set",
    cls=Command,
    examples=[
        "hsmvault key rotation set payroll --after P90D",
        "hsmvault key rotation set payroll --expire-after P365D --before-expiry P30D",
    ],
)
@click.argument("name")
@click.option(
    "--after",
    callback=duration,
    metavar="DURATION",
    help="Rotate so long after the newest version was made; P28D or more.",
)
@click.option(
    "--before-expiry",
    callback=duration,
    metavar="DURATION",
    help="Rotate so long before the key expires; needs --expire-after.",
)
@click.option(
    "--expire-after",
    callback=duration,
    metavar="DURATION",
    help="Have the key expire so long after each rotation; P28D or more.",
)
@click.option("--etag", default="", help="Refuse if it has changed since you read it.")
@click.option(
    "--durability",
    default="REGION",
    metavar="LEVEL",
    help="Wait until this many extended regions hold it, or ALL_REGIONS.",
)
@changing
def set_policy(
    asking: Asking,
    *,
    name: str,
    after: dt.timedelta | None,
    before_expiry: dt.timedelta | None,
    expire_after: dt.timedelta | None,
    etag: str,
    durability: str,
) -> None:
    """Replace a key's policy. Durations are ISO 8601, in days or weeks: P90D, P12W."""
    if not (after or before_expiry or expire_after):
        message = "say when: --after, or --expire-after with --before-expiry"
        raise click.UsageError(message)
    if after and before_expiry:
        raise click.UsageError("--after, or --before-expiry: not both")
    if before_expiry and not expire_after:
        raise click.UsageError("--before-expiry needs --expire-after; see --help")
    changed = asking.vault.keys.set_rotation_policy(
        name,
        rotate_after_create=after,
        rotate_before_expire=before_expiry,
        expire_after=expire_after,
        etag=etag,
        durability=durability,
    )
    _print(asking, changed)


@rotation.command(cls=Command, examples=["hsmvault key rotation remove payroll"])
@click.argument("name")
@changing
def remove(asking: Asking, name: str) -> None:
    """Take a key's policy away: it rotates by hand only."""
    _print(asking, asking.vault.keys.set_rotation_policy(name))


@click.command(cls=Command, examples=["hsmvault key activate payroll 4f1c22… --force"])
@click.argument("name")
@click.argument("version")
@click.option("--force", is_flag=True, help="Although regions lack it.")
@changing
def activate(asking: Asking, name: str, version: str, force: bool) -> None:
    """Make a pending version current now.

    By itself it becomes so once every region that it is wrapped for holds it.
    """
    full = version if "/" in version else f"{name}/versions/{version}"
    done = asking.vault.keys.activate(full, force=force)
    rows = printing.version_rows(done.key_version)
    rows["lacking"] = ", ".join(done.lacking_regions)
    printing.one(done, rows, as_json=asking.as_json)


def _print(asking: Asking, policy: RotationPolicy) -> None:
    printing.one(policy, _rows(policy), as_json=asking.as_json)


def _rows(policy: RotationPolicy) -> Mapping[str, str]:
    rows = {
        "rotates after": _days(policy.rotate_after_create),
        "rotates before expiry": _days(policy.rotate_before_expire),
        "expires after": _days(policy.expire_after),
        "next rotation": printing.when(policy.next_rotation_time) or "by hand only",
        "etag": policy.etag,
        "position": policy.position,
    }
    return {"key": policy.name.removesuffix("/rotationPolicy"), **rows}


def _days(lasting: Duration) -> str:
    days = lasting.ToTimedelta() / dt.timedelta(days=1)
    return f"P{days:g}D" if days else ""
