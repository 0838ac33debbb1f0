"""`hsmvault crypto …`: the use of keys, on files and pipes.

What is encrypted or wrapped goes into a small JSON file that names the version, so that
it can be opened by that file alone. Plaintexts come from files or pipes and go there;
they never stand on a command line.
"""

import base64
import binascii
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import click

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, connected
from hsmvault.cli.groups import Command, Group

_IN = click.option(
    "--in", "source", type=click.File("rb"), default="-", help="File; default: stdin."
)
_FILE = click.argument("source", metavar="[FILE]", type=click.File("rb"), default="-")
_OUT = click.option(
    "--out",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="File (made 0600); default: stdout.",
)
_ALGORITHM = click.option("--algorithm", "-a", required=True, help="JOSE name.")
_AAD = click.option(
    "--aad", type=click.File("rb"), help="File with additional authenticated data."
)


@click.group(cls=Group)
def crypto() -> None:
    """Sign, verify, encrypt, decrypt, wrap, unwrap, data keys, random bytes."""


def _write(data: bytes, target: Path | None) -> None:
    if target is None:
        sys.stdout.buffer.write(data)
        return
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _write_json(fields: dict[str, Any], target: Path | None) -> None:
    shown = {
        name: printing.base64_of(value) if isinstance(value, bytes) else value
        for name, value in fields.items()
    }
    _write(json.dumps(shown, indent=2).encode() + b"\n", target)


def _read_json(source: IO[bytes], wanted: tuple[str, ...]) -> dict[str, Any]:
    """Read back what `_write_json` wrote; `wanted` are the fields that hold bytes."""
    try:
        fields = json.loads(source.read())
        read = {name: base64.b64decode(fields[name], validate=True) for name in wanted}
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise click.UsageError(
            "the input is not what `hsmvault crypto` wrote: JSON with name, algorithm, "
            + ", ".join(wanted)
        ) from error
    return {**fields, **read}


def _digest(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise click.UsageError("--digest takes hexadecimal digits") from error


@crypto.command(
    cls=Command,
    examples=[
        "hsmvault crypto sign payroll -a ES256 --in letter.pdf --out letter.sig",
        "echo -n hello | hsmvault crypto sign payroll -a ES256 --format hex",
    ],
)
@click.argument("name")
@_ALGORITHM
@_IN
@click.option("--digest", default=None, metavar="HEX", help="Instead of --in.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["base64", "hex", "raw"]),
    default="base64",
    show_default=True,
)
@_OUT
@connected
def sign(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    source: IO[bytes],
    digest: str | None,
    form: str,
    target: Path | None,
) -> None:
    """Sign a file, or a digest of it. The file is hashed here and never sent.

    HS256, HS384 and HS512 authenticate the file itself: up to 64 KiB, sent.
    """
    given = _digest(digest)
    answer = asking.vault.sign(
        name, algorithm, digest=given, message=b"" if given else source.read()
    )
    if asking.as_json:
        printing.dump(printing.plain(answer))
    elif form == "raw":
        _write(answer.signature, target)
    else:
        text = (
            answer.signature.hex()
            if form == "hex"
            else printing.base64_of(answer.signature)
        )
        _write(text.encode() + b"\n", target)


def _signature(path: Path) -> bytes:
    """Read a signature as `sign` wrote it, in any of its three forms."""
    raw = path.read_bytes()
    text = raw.strip()
    for read in (binascii.unhexlify, lambda t: base64.b64decode(t, validate=True)):
        try:
            return read(text)
        except (ValueError, binascii.Error):
            continue
    return raw


@crypto.command(
    cls=Command,
    examples=[
        "hsmvault crypto verify payroll -a ES256 --in letter.pdf -s letter.sig",
    ],
)
@click.argument("name")
@_ALGORITHM
@_IN
@click.option("--digest", default=None, metavar="HEX", help="Instead of --in.")
@click.option(
    "--signature",
    "-s",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File, as `sign` wrote it.",
)
@connected
def verify(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    source: IO[bytes],
    digest: str | None,
    signature: Path,
) -> None:
    """Check a signature. Exit code 1 if it is not the key's."""
    given = _digest(digest)
    answer = asking.vault.verify(
        name,
        algorithm,
        digest=given,
        message=b"" if given else source.read(),
        signature=_signature(signature),
    )
    if asking.as_json:
        printing.dump(printing.plain(answer))
    else:
        click.echo("valid" if answer.valid else "NOT valid")
    if not answer.valid:
        raise SystemExit(1)


@crypto.command(
    cls=Command,
    examples=["hsmvault crypto encrypt box -a A256GCM --in note.txt --out note.json"],
)
@click.argument("name")
@_ALGORITHM
@_IN
@_AAD
@_OUT
@connected
def encrypt(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    source: IO[bytes],
    aad: IO[bytes] | None,
    target: Path | None,
) -> None:
    """Encrypt up to 64 KiB into a JSON file that `decrypt` opens."""
    answer = asking.vault.encrypt(
        name, algorithm, source.read(), aad=aad.read() if aad else b""
    )
    fields = {
        "name": answer.name,
        "algorithm": answer.algorithm,
        "ciphertext": answer.ciphertext,
        "iv": answer.iv,
        "tag": answer.tag,
    }
    _write_json(fields, target)


@crypto.command(
    cls=Command,
    examples=["hsmvault crypto decrypt note.json --out note.txt"],
)
@_FILE
@_AAD
@_OUT
@connected
def decrypt(
    asking: Asking, source: IO[bytes], aad: IO[bytes] | None, target: Path | None
) -> None:
    """Decrypt what `encrypt` wrote, with the version that it names."""
    fields = _read_json(source, ("ciphertext", "iv", "tag"))
    answer = asking.vault.decrypt(
        str(fields["name"]),
        str(fields["algorithm"]),
        fields["ciphertext"],
        iv=fields["iv"],
        tag=fields["tag"],
        aad=aad.read() if aad else b"",
    )
    _write(answer.plaintext, target)


@crypto.command(
    cls=Command,
    examples=["hsmvault crypto wrap box -a A256KW --in data.key --out data.json"],
)
@click.argument("name")
@_ALGORITHM
@_IN
@_OUT
@connected
def wrap(
    asking: Asking, name: str, algorithm: str, source: IO[bytes], target: Path | None
) -> None:
    """Wrap a key of yours into a JSON file that `unwrap` opens."""
    answer = asking.vault.wrap(name, algorithm, source.read())
    fields = {
        "name": answer.name,
        "algorithm": answer.algorithm,
        "wrapped": answer.wrapped,
    }
    _write_json(fields, target)


@crypto.command(
    cls=Command, examples=["hsmvault crypto unwrap data.json --out data.key"]
)
@_FILE
@_OUT
@connected
def unwrap(asking: Asking, source: IO[bytes], target: Path | None) -> None:
    """Unwrap what `wrap` or `data-key` wrote, in any region."""
    fields = _read_json(source, ("wrapped",))
    answer = asking.vault.unwrap(
        str(fields["name"]), str(fields["algorithm"]), fields["wrapped"]
    )
    _write(answer.plaintext, target)


@crypto.command(
    "data-key",
    cls=Command,
    examples=["hsmvault crypto data-key box --out data.json --plaintext data.key"],
)
@click.argument("name")
@click.option("--algorithm", "-a", default="", help="Default: fits the key.")
@click.option("--bytes", "size", default=32, show_default=True, help="16 to 512.")
@click.option(
    "--plaintext",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the data key in clear (made 0600): use it, then remove it.",
)
@_OUT
@connected
def data_key(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    size: int,
    plaintext: Path,
    target: Path | None,
) -> None:
    """Make a data key: in clear into one file, wrapped into another."""
    answer = asking.vault.generate_data_key(name, algorithm=algorithm, size=size)
    _write(answer.plaintext, plaintext)
    fields = {
        "name": answer.name,
        "algorithm": answer.algorithm,
        "wrapped": answer.wrapped,
    }
    _write_json(fields, target)


@crypto.command(cls=Command, examples=["hsmvault crypto random 32 --format hex"])
@click.argument("count", type=click.IntRange(1, 128))
@click.option(
    "--format",
    "form",
    type=click.Choice(["base64", "hex", "raw"]),
    default="base64",
    show_default=True,
)
@_OUT
@connected
def random(asking: Asking, count: int, form: str, target: Path | None) -> None:
    """Print bytes from the HSM's generator."""
    data = asking.vault.random(count)
    if form == "raw":
        _write(data, target)
    else:
        text = data.hex() if form == "hex" else printing.base64_of(data)
        _write(text.encode() + b"\n", target)
