"""What the crypto commands read and write, and the options that say where."""

import base64
import binascii
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from google.protobuf.message import Message

from hsmvault.cli import printing
from hsmvault.model.decoding import from_json


def _pairs(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    """Read NAME=VALUE, each name once."""
    pairs = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals or name in pairs:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE with a new name")
        pairs[name] = value
    return pairs


IN = click.option(
    "--in", "source", type=click.File("rb"), default="-", help="File; default: stdin."
)
FILE = click.argument("source", metavar="[FILE]", type=click.File("rb"), default="-")
EXPECTED = click.option(
    "--expected-version",
    default="",
    metavar="VERSION",
    help="Its id, or keys/…/versions/…: refuse if another one is current.",
)
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _writable(
    _context: click.Context, _parameter: click.Parameter, target: Path | None
) -> Path | None:
    """Refuse what cannot be written before anything is asked of the vault."""
    if target is not None and not os.access(target.parent, os.W_OK | os.X_OK):
        raise click.BadParameter(f"there is no directory {target.parent} to write into")
    return target


def new_file(*names: str, text: str) -> Callable[[Decorated], Decorated]:
    """Make an option for a file that is to be written."""
    return click.option(
        *names,
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        default=None,
        callback=_writable,
        help=text,
    )


OUT = new_file("--out", "target", text="File (made 0600); default: stdout.")
FORM = click.option(
    "--format",
    "form",
    type=click.Choice(["base64", "hex", "raw"]),
    default="base64",
    show_default=True,
)
ALGORITHM = click.option(
    "--algorithm", "-a", required=True, help="As ES256, A256GCM, RSA-OAEP-256."
)
AAD = click.option(
    "--aad", type=click.File("rb"), help="File with additional authenticated data."
)

CONTEXT = click.option(
    "--context",
    multiple=True,
    callback=_pairs,
    metavar="NAME=VALUE",
    help="Bind it to this, and ask for it again when it is opened. May be repeated; "
    "not with --aad.",
)


def write(data: bytes, target: Path | None) -> None:
    """Write to a file that only its owner reads, or to the pipe."""
    if target is None:
        sys.stdout.buffer.write(data)
        return
    with private(target) as file:
        file.write(data)


def private(target: Path) -> IO[bytes]:
    """Open a file that only its owner reads: also one that was there before."""
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError as error:
        raise click.UsageError(f"cannot write {target}: {error.strerror}") from error
    # Not of /dev/stdout and the like: those are not ours to close to others.
    if stat.S_ISREG(os.fstat(handle).st_mode):
        os.fchmod(handle, 0o600)
        os.ftruncate(handle, 0)
    return os.fdopen(handle, "wb")


def answer(
    message: Message, data: bytes, target: Path | None, *, as_json: bool
) -> None:
    """Write what was asked for into the file; else to stdout, whole if as JSON."""
    if as_json and target is None:
        printing.dump(printing.plain(message))
    else:
        write(data, target)


def formed(data: bytes, form: str) -> bytes:
    """Write bytes in one of the forms of `FORM`."""
    if form == "raw":
        return data
    text = data.hex() if form == "hex" else printing.base64_of(data)
    return text.encode() + b"\n"


def write_json(fields: dict[str, Any], target: Path | None) -> None:
    """Write fields, those of bytes in base64."""
    shown = {
        name: printing.base64_of(value) if isinstance(value, bytes) else value
        for name, value in fields.items()
    }
    write(json.dumps(shown, indent=2).encode() + b"\n", target)


def read_json(source: IO[bytes], wanted: tuple[str, ...]) -> dict[str, Any]:
    """Read back what `write_json` wrote; `wanted` are the fields that hold bytes."""
    try:
        fields = from_json(source.read())
        read = {name: base64.b64decode(fields[name], validate=True) for name in wanted}
    except (ValueError, TypeError, KeyError, binascii.Error) as error:
        raise click.UsageError(
            "the input is not what `hsmvault crypto` wrote: JSON with name, algorithm, "
            + ", ".join(wanted)
        ) from error
    return {**fields, **read}
