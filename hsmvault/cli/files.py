"""What the crypto commands read and write, and the options that say where."""

import base64
import binascii
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

import click

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
    help="keys/…/versions/…: refuse if another one is current.",
)
OUT = click.option(
    "--out",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="File (made 0600); default: stdout.",
)
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
    """Open a new file that only its owner reads."""
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    return os.fdopen(handle, "wb")


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
