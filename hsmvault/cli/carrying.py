"""Keys that come in, go out and come back: import, backup, restore."""

import datetime as dt
from pathlib import Path
from typing import IO

import click

from hsmvault.cli import files, printing
from hsmvault.cli.asking import Asking, changing, connected
from hsmvault.cli.groups import Command
from hsmvault.v1.key_service_pb2 import Import

_FILE = click.File("rb")
_DURABILITY = click.option(
    "--durability",
    default="REGION",
    metavar="LEVEL",
    help="Wait until this many extended regions hold it, or ALL_REGIONS.",
)
_REQUEST_ID = click.option(
    "--request-id", default="", help="Repeat with the same id: same answer."
)


@click.command(
    "begin-import",
    cls=Command,
    examples=["hsmvault key begin-import mail --bits 3072 --out wrapping.pem"],
)
@click.argument("name")
@click.option("--bits", default=0, help="2048 (default), 3072 or 4096.")
@click.option(
    "--lifetime",
    type=click.IntRange(60, 86_400),
    default=3600,
    show_default=True,
    metavar="SECONDS",
)
@files.OUT
@_REQUEST_ID
@_DURABILITY
@changing
def begin_import(
    asking: Asking,
    *,
    name: str,
    bits: int,
    lifetime: int,
    target: Path | None,
    request_id: str,
    durability: str,
) -> None:
    """Make a wrapping key for one key of this name; good for one attempt.

    Wrap the key by CKM_RSA_AES_KEY_WRAP (RSA-OAEP with SHA-1, AES-256-KWP), or with a
    tool that makes Azure's key transfer blobs, and hand it to `hsmvault key import`.
    """
    begun = asking.vault.keys.begin_import(
        name,
        bits=bits,
        lifetime=dt.timedelta(seconds=lifetime),
        request_id=request_id,
        durability=durability,
    )
    if target is not None:
        files.write(begun.public_key.encode(), target)
    rows = _import_rows(begun)
    if target is None:
        rows["public key"] = begun.public_key
    printing.one(begun, rows, as_json=asking.as_json)


def _import_rows(begun: Import) -> dict[str, str]:
    return {
        "name": begun.name,
        "for": begun.key,
        "bits": str(begun.bits),
        "takes": ", ".join(begun.formats),
        "expires": printing.when(begun.expire_time),
    }


@click.command(
    "import",
    cls=Command,
    examples=[
        "hsmvault key import mail --pem mail.pem",
        "hsmvault key import tokens --jwk tokens.json --operations sign,verify",
        "hsmvault key import mail --blob mail.blob --import imports/4f… --type RSA",
    ],
)
@click.argument("name")
@click.option("--pem", "pkcs8", type=_FILE, help="PKCS #8, PEM or DER, not encrypted.")
@click.option("--jwk", type=_FILE, help="A JSON Web Key with its private parts.")
@click.option("--blob", type=_FILE, help="Wrapped for --import: CKM_RSA_AES_KEY_WRAP.")
@click.option("--import", "wrapping_key", default="", metavar="NAME", help="imports/…")
@click.option(
    "--public",
    type=_FILE,
    help="Its public half (PEM); needed with a blob of an EC key.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["EC", "RSA", "oct"]),
    default=None,
    help="What the material is; needed with a blob.",
)
@click.option("--curve", default="", help="EC: P-256 (default), P-384, P-521, P-256K.")
@click.option("--bits", default=0, help="RSA: 2048, 3072, 4096. oct: 128 to 512.")
@click.option(
    "--operations",
    default="",
    metavar="LIST",
    help="Any of encrypt,decrypt,sign,verify,wrapKey,unwrapKey.",
)
@click.option("--disabled", is_flag=True, help="Let nobody use it yet.")
@click.option("--deletion-protection", is_flag=True, help="Refuse its deletion.")
@_REQUEST_ID
@_DURABILITY
@changing
def import_key(
    asking: Asking,
    *,
    name: str,
    pkcs8: IO[bytes] | None,
    jwk: IO[bytes] | None,
    blob: IO[bytes] | None,
    wrapping_key: str,
    public: IO[bytes] | None,
    kind: str | None,
    curve: str,
    bits: int,
    operations: str,
    disabled: bool,
    deletion_protection: bool,
    request_id: str,
    durability: str,
) -> None:
    """Bring in a key from outside. The file stays where it is: destroy it yourself.

    In the clear over TLS (--pem, --jwk), or wrapped by `begin-import` (--blob).
    """
    if [pkcs8, jwk, blob].count(None) != 2:  # noqa: PLR2004  of three
        raise click.UsageError("give one of --pem, --jwk and --blob")
    if blob and not (wrapping_key and kind):
        raise click.UsageError("--blob needs --import and --type; see --help")
    if blob and kind == "EC" and not public:
        raise click.UsageError(
            "a blob of an EC key needs --public: openssl pkey -in KEY.pem -pubout"
        )
    if wrapping_key and not blob:
        raise click.UsageError("--import goes with --blob only")
    made = asking.vault.keys.import_key(
        name,
        pkcs8=pkcs8.read() if pkcs8 else None,
        jwk=jwk.read() if jwk else None,
        blob=blob.read() if blob else None,
        wrapping_key=wrapping_key,
        public_key=public.read() if public else b"",
        kind=kind or "",
        curve=curve,
        bits=bits,
        operations=[word for word in operations.split(",") if word],
        enabled=not disabled,
        deletion_protection=deletion_protection,
        request_id=request_id,
        durability=durability,
    )
    printing.one(made, printing.key_rows(made), as_json=asking.as_json)


@click.command(
    cls=Command, examples=["hsmvault key backup payroll --out payroll.backup"]
)
@click.argument("name")
@files.OUT
@connected
def backup(asking: Asking, name: str, target: Path | None) -> None:
    """Carry out a key with all versions, wrapped. Only this vault can restore it.

    A backup outlives a purge: who may restore brings the key back with it.
    """
    files.write(asking.vault.keys.backup(name), target)


@click.command(cls=Command, examples=["hsmvault key restore payroll.backup"])
@click.argument("source", metavar="FILE", type=_FILE)
@_REQUEST_ID
@_DURABILITY
@changing
def restore(
    asking: Asking, source: IO[bytes], request_id: str, durability: str
) -> None:
    """Bring a key back by its backup: its name, its versions, their ids and dates."""
    back = asking.vault.keys.restore(
        source.read(), request_id=request_id, durability=durability
    )
    printing.one(back, printing.key_rows(back), as_json=asking.as_json)
