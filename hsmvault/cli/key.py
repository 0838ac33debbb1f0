"""`hsmvault key …` and `hsmvault version …`: the life of keys."""

import datetime as dt
from contextlib import suppress

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, changing, connected
from hsmvault.cli.groups import Command, Group
from hsmvault.model.errors import NotFound
from hsmvault.v1.resources_pb2 import Key


@click.group(cls=Group)
def key() -> None:
    """Make, look up, change, rotate, delete, recover and purge keys."""


@click.group(cls=Group)
def version() -> None:
    """Enable and disable single versions of a key."""


_DURABILITY = click.option(
    "--durability",
    default=None,
    metavar="LEVEL",
    help="Wait until this many extended regions hold it, or ALL_REGIONS.",
)
_ETAG = click.option(
    "--etag", default="", help="Refuse if it has changed since you read it."
)


def _moment(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> dt.datetime | None:
    if text is None:
        return None
    try:
        read = dt.datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no date; write 2027-01-31 or 2027-01-31T12:00:00+00:00"
        raise click.BadParameter(message) from error
    return read if read.tzinfo else read.replace(tzinfo=dt.UTC)


def _tags(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str] | None:
    if not given:
        return None
    pairs = [item.partition("=") for item in given]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise click.BadParameter(f"write tags as name=value, not {wrong[0]!r}")
    return {name: value for name, _, value in pairs if value or name}


def _words(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> list[str] | None:
    return None if text is None else [w for w in text.split(",") if w]


_NOT_BEFORE = click.option(
    "--not-before", callback=_moment, metavar="DATE", help="Usable from this time on."
)
_EXPIRES = click.option(
    "--expires", callback=_moment, metavar="DATE", help="Usable until this time."
)
_TAG = click.option(
    "--tag", "tags", multiple=True, callback=_tags, metavar="NAME=VALUE"
)
_OPERATIONS = click.option(
    "--operations",
    callback=_words,
    metavar="LIST",
    help="Any of encrypt,decrypt,sign,verify,wrapKey,unwrapKey.",
)


@key.command(
    cls=Command,
    examples=[
        "hsmvault key create payroll",
        "hsmvault key create mail --type RSA --bits 3072 --durability ALL_REGIONS",
        "hsmvault key create vault --type oct --operations wrapKey,unwrapKey",
        "hsmvault key create tokens --type oct --operations sign,verify",
    ],
)
@click.argument("name")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["EC", "RSA", "oct"]),
    default="EC",
    show_default=True,
)
@click.option("--curve", default="", help="EC: P-256 (default), P-384, P-521, P-256K.")
@click.option("--bits", default=0, help="RSA: 2048, 3072, 4096. oct: 128 to 512.")
@_OPERATIONS
@_NOT_BEFORE
@_EXPIRES
@_TAG
@click.option("--disabled", is_flag=True, help="Make it, but let nobody use it yet.")
@click.option("--deletion-protection", is_flag=True, help="Refuse its deletion.")
@click.option("--request-id", default="", help="Repeat with the same id: same answer.")
@_DURABILITY
@changing
def create(
    asking: Asking,
    *,
    name: str,
    kind: str,
    curve: str,
    bits: int,
    operations: list[str] | None,
    not_before: dt.datetime | None,
    expires: dt.datetime | None,
    tags: dict[str, str] | None,
    disabled: bool,
    deletion_protection: bool,
    request_id: str,
    durability: str | None,
) -> None:
    """Make a key and its first version.

    When it answers, the key is durable, and was opened again and used once.
    """
    made = asking.vault.keys.create(
        name,
        kind,
        curve=curve,
        bits=bits,
        operations=operations or (),
        enabled=not disabled,
        not_before=not_before,
        expire=expires,
        tags=tags,
        deletion_protection=deletion_protection,
        request_id=request_id,
        durability=durability or "REGION",
    )
    _show(asking, made)


@key.command(cls=Command, examples=["hsmvault key get payroll --output json"])
@click.argument("name")
@click.option("--deleted", is_flag=True, help="Also if it is soft-deleted.")
@connected
def get(asking: Asking, name: str, deleted: bool) -> None:
    """Show a key."""
    if deleted:
        with suppress(NotFound):
            return _show(asking, asking.vault.keys.deleted(name))
    return _show(asking, asking.vault.keys.get(name, deleted=deleted))


@key.command(
    "list",
    cls=Command,
    examples=[
        "hsmvault key list",
        "hsmvault key list --deleted",
        "hsmvault key list --token-file token --endpoint north:7403 --ca ca.pem",
    ],
)
@click.option("--deleted", is_flag=True, help="The soft-deleted ones in their place.")
@connected
def list_keys(asking: Asking, deleted: bool) -> None:
    """List keys by name."""
    if deleted:
        return _list_deleted(asking)
    keys = list(asking.vault.keys.list())
    printing.many(
        keys,
        ("name", "type", "state", "enabled", "changed", "position"),
        (printing.key_row(k) for k in keys),
        as_json=asking.as_json,
        empty="no keys yet; hsmvault key create NAME makes one",
    )
    return None


def _list_deleted(asking: Asking) -> None:
    keys = list(asking.vault.keys.list_deleted())
    printing.many(
        keys,
        ("name", "type", "deleted", "purged on", "level"),
        (printing.deleted_row(k) for k in keys),
        as_json=asking.as_json,
        empty="no key is deleted",
    )


@key.command(cls=Command, examples=["hsmvault key versions payroll"])
@click.argument("name")
@connected
def versions(asking: Asking, name: str) -> None:
    """List the versions of a key, oldest first."""
    found = list(asking.vault.keys.versions(name))
    printing.many(
        found,
        ("version", "state", "", "enabled", "regions", "created", ""),
        (printing.version_row(v) for v in found),
        as_json=asking.as_json,
        empty="no versions",
    )


@key.command(
    cls=Command,
    examples=[
        "hsmvault key update payroll --disable",
        "hsmvault key update payroll --expires 2027-01-31 --tag team=money",
    ],
)
@click.argument("name")
@click.option("--enable/--disable", default=None, help="Let it be used, or not.")
@_OPERATIONS
@_NOT_BEFORE
@_EXPIRES
@click.option("--no-dates", is_flag=True, help="Take both dates away.")
@_TAG
@click.option("--no-tags", is_flag=True, help="Take all tags away.")
@click.option("--deletion-protection/--no-deletion-protection", default=None)
@_ETAG
@_DURABILITY
@changing
def update(
    asking: Asking,
    *,
    name: str,
    enable: bool | None,
    operations: list[str] | None,
    not_before: dt.datetime | None,
    expires: dt.datetime | None,
    no_dates: bool,
    tags: dict[str, str] | None,
    no_tags: bool,
    deletion_protection: bool | None,
    etag: str,
    durability: str | None,
) -> None:
    """Change a key; in force on all partitions when it answers."""
    dates = not_before or expires
    if (no_tags and tags) or (no_dates and dates):
        raise click.UsageError("give new tags or dates, or take them away: not both")
    if (enable, deletion_protection, operations) == (None, None, None) and not (
        tags or no_tags or dates or no_dates
    ):
        raise click.UsageError("name at least one change; see --help")
    changed = asking.vault.keys.update(
        name,
        enabled=enable,
        operations=operations,
        not_before=not_before,
        expire=expires,
        tags={} if no_tags else tags,
        deletion_protection=deletion_protection,
        clear=("not_before_time", "expire_time") if no_dates else (),
        etag=etag,
        durability=durability or "REGION",
    )
    _show(asking, changed)


@key.command(cls=Command, examples=["hsmvault key rotate payroll"])
@click.argument("name")
@_ETAG
@_DURABILITY
@changing
def rotate(asking: Asking, name: str, etag: str, durability: str | None) -> None:
    """Make a new version. It becomes current once every region holds it."""
    made = asking.vault.keys.rotate(name, etag=etag, durability=durability or "REGION")
    printing.one(made, printing.version_rows(made), as_json=asking.as_json)


@key.command(cls=Command, examples=["hsmvault key delete payroll"])
@click.argument("name")
@_ETAG
@_DURABILITY
@changing
def delete(asking: Asking, name: str, etag: str, durability: str | None) -> None:
    """Soft-delete a key: unusable at once, recoverable until it is purged."""
    gone = asking.vault.keys.delete(name, etag=etag, durability=durability or "REGION")
    _show(asking, gone)


@key.command(cls=Command, examples=["hsmvault key recover payroll"])
@click.argument("name")
@_ETAG
@_DURABILITY
@changing
def recover(asking: Asking, name: str, etag: str, durability: str | None) -> None:
    """Bring a deleted key back exactly as it was."""
    back = asking.vault.keys.recover(name, etag=etag, durability=durability or "REGION")
    _show(asking, back)


@key.command(cls=Command, examples=["hsmvault key purge payroll --yes"])
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_ETAG
@_DURABILITY
@changing
def purge(
    asking: Asking, name: str, yes: bool, etag: str, durability: str | None
) -> None:
    """End a deleted key for good, in every region."""
    if not yes:
        printing.confirm(f"End {name} for good? Nothing brings it back.")
    position = asking.vault.keys.purge(
        name, etag=etag, durability=durability or "REGION"
    )
    if asking.as_json:
        printing.dump({"position": position})
    else:
        click.echo(f"{name} is gone, at position {position}")


@key.command(
    "public-key",
    cls=Command,
    examples=["hsmvault key public-key payroll > payroll.pem"],
)
@click.argument("name")
@connected
def public_key(asking: Asking, name: str) -> None:
    """Print the public half of a key, or of one version, as PEM."""
    public = asking.vault.keys.public_key(name)
    if asking.as_json:
        printing.dump(printing.plain(public))
    else:
        click.echo(public.pem, nl=not public.pem.endswith("\n"))


@version.command(
    "update",
    cls=Command,
    examples=["hsmvault version update keys/payroll/versions/4f… --disable"],
)
@click.argument("name")
@click.option("--enable/--disable", required=True, help="Let it be used, or not.")
@_DURABILITY
@changing
def update_version(
    asking: Asking, name: str, enable: bool, durability: str | None
) -> None:
    """Enable or disable one version; in force on all partitions at once."""
    changed = asking.vault.keys.update_version(
        name, enabled=enable, durability=durability or "REGION"
    )
    printing.one(changed, printing.version_rows(changed), as_json=asking.as_json)


def _show(asking: Asking, key: Key) -> None:
    printing.one(key, printing.key_rows(key), as_json=asking.as_json)
