"""`hsmvault crypto …`: the use of keys, on files and pipes.

What is encrypted or wrapped goes into a small JSON file that names the version, so that
it can be opened by that file alone. Plaintexts come from files or pipes and go there;
they never stand on a command line.
"""

import base64
import binascii
from pathlib import Path
from typing import IO, Any

import click
from click.core import ParameterSource

from hsmvault.cli import files, printing
from hsmvault.cli.asking import Asking, connected
from hsmvault.cli.groups import Command, Group
from hsmvault.v1.crypto_service_pb2 import (
    EncryptResponse,
    GetRandomBytesResponse,
    ReEncryptResponse,
)

_GIVEN = {ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT}


@click.group(cls=Group)
def crypto() -> None:
    """Sign, verify, encrypt, decrypt, wrap, unwrap, data keys, random bytes."""


def _sealed(answer: EncryptResponse | ReEncryptResponse) -> dict[str, Any]:
    return {
        "name": answer.name,
        "algorithm": answer.algorithm,
        "ciphertext": answer.ciphertext,
        "iv": answer.iv,
        "tag": answer.tag,
    }


def _digest(text: str | None) -> bytes | None:
    if text is None:
        return None
    if click.get_current_context().get_parameter_source("source") in _GIVEN:
        raise click.UsageError("--in, or --digest: not both")
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
@files.ALGORITHM
@files.IN
@click.option("--digest", default=None, metavar="HEX", help="Instead of --in.")
@files.FORM
@files.EXPECTED
@files.OUT
@connected
def sign(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    source: IO[bytes],
    digest: str | None,
    form: str,
    expected_version: str,
    target: Path | None,
) -> None:
    """Sign a file, or a digest of it. The file is hashed here and never sent.

    HS256, HS384 and HS512 authenticate the file itself: up to 64 KiB, sent.
    """
    given = _digest(digest)
    answer = asking.vault.sign(
        name,
        algorithm,
        digest=given,
        message=b"" if given else source.read(),
        expected_version=expected_version,
    )
    signature = files.formed(answer.signature, form)
    files.answer(answer, signature, target, as_json=asking.as_json)


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
@files.ALGORITHM
@files.IN
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
@files.ALGORITHM
@files.IN
@files.AAD
@files.CONTEXT
@files.EXPECTED
@files.OUT
@connected
def encrypt(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    source: IO[bytes],
    aad: IO[bytes] | None,
    context: dict[str, str],
    expected_version: str,
    target: Path | None,
) -> None:
    """Encrypt up to 64 KiB into a JSON file that `decrypt` opens."""
    answer = asking.vault.encrypt(
        name,
        algorithm,
        source.read(),
        aad=aad.read() if aad else b"",
        context=context,
        expected_version=expected_version,
    )
    files.write_json(_sealed(answer), target)


@crypto.command(
    cls=Command,
    examples=["hsmvault crypto decrypt note.json --out note.txt"],
)
@files.FILE
@files.AAD
@files.CONTEXT
@files.OUT
@connected
def decrypt(
    asking: Asking,
    *,
    source: IO[bytes],
    aad: IO[bytes] | None,
    context: dict[str, str],
    target: Path | None,
) -> None:
    """Decrypt what `encrypt` wrote, with the version that it names."""
    fields = files.read_json(source, ("ciphertext", "iv", "tag"))
    answer = asking.vault.decrypt(
        str(fields["name"]),
        str(fields["algorithm"]),
        fields["ciphertext"],
        iv=fields["iv"],
        tag=fields["tag"],
        aad=aad.read() if aad else b"",
        context=context,
    )
    files.answer(answer, answer.plaintext, target, as_json=asking.as_json)


@crypto.command(
    "re-encrypt",
    cls=Command,
    examples=[
        "hsmvault crypto re-encrypt note.json --to box -a A256GCM --out new.json"
    ],
)
@files.FILE
@click.option("--to", required=True, metavar="NAME", help="Key to encrypt by.")
@files.ALGORITHM
@files.AAD
@files.CONTEXT
@files.OUT
@connected
def re_encrypt(
    asking: Asking,
    *,
    source: IO[bytes],
    to: str,
    algorithm: str,
    aad: IO[bytes] | None,
    context: dict[str, str],
    target: Path | None,
) -> None:
    """Move what `encrypt` wrote to another key or version, without showing it.

    It stays bound to the same --aad or --context.
    """
    fields = files.read_json(source, ("ciphertext", "iv", "tag"))
    bound = aad.read() if aad else b""
    answer = asking.vault.re_encrypt(
        EncryptResponse(
            name=str(fields["name"]),
            algorithm=str(fields["algorithm"]),
            ciphertext=fields["ciphertext"],
            iv=fields["iv"],
            tag=fields["tag"],
        ),
        to,
        algorithm,
        aad=bound,
        context=context,
        target_aad=bound,
        target_context=context,
    )
    files.write_json(_sealed(answer), target)


@crypto.command(
    cls=Command,
    examples=["hsmvault crypto wrap box -a A256KW --in data.key --out data.json"],
)
@click.argument("name")
@files.ALGORITHM
@files.IN
@files.CONTEXT
@files.EXPECTED
@files.OUT
@connected
def wrap(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    source: IO[bytes],
    context: dict[str, str],
    expected_version: str,
    target: Path | None,
) -> None:
    """Wrap a key of yours into a JSON file that `unwrap` opens."""
    answer = asking.vault.wrap(
        name,
        algorithm,
        source.read(),
        context=context,
        expected_version=expected_version,
    )
    fields = {
        "name": answer.name,
        "algorithm": answer.algorithm,
        "wrapped": answer.wrapped,
    }
    files.write_json(fields, target)


@crypto.command(
    cls=Command, examples=["hsmvault crypto unwrap data.json --out data.key"]
)
@files.FILE
@files.CONTEXT
@files.OUT
@connected
def unwrap(
    asking: Asking, source: IO[bytes], context: dict[str, str], target: Path | None
) -> None:
    """Unwrap what `wrap` or `data-key` wrote, in any region."""
    fields = files.read_json(source, ("wrapped",))
    answer = asking.vault.unwrap(
        str(fields["name"]),
        str(fields["algorithm"]),
        fields["wrapped"],
        context=context,
    )
    files.answer(answer, answer.plaintext, target, as_json=asking.as_json)


@crypto.command(
    "data-key",
    cls=Command,
    examples=["hsmvault crypto data-key box --out data.json --plaintext data.key"],
)
@click.argument("name")
@click.option("--algorithm", "-a", default="", help="Default: fits the key.")
@click.option("--bytes", "size", default=32, show_default=True, help="16 to 512.")
@files.new_file(
    "--plaintext",
    text="File for the data key in clear (made 0600): use it, then remove it. "
    "Without, only the wrapped one is made.",
)
@files.CONTEXT
@files.EXPECTED
@files.OUT
@connected
def data_key(
    asking: Asking,
    *,
    name: str,
    algorithm: str,
    size: int,
    plaintext: Path | None,
    context: dict[str, str],
    expected_version: str,
    target: Path | None,
) -> None:
    """Make a data key: in clear into one file, wrapped into another."""
    answer = asking.vault.generate_data_key(
        name,
        algorithm=algorithm,
        size=size,
        without_plaintext=plaintext is None,
        context=context,
        expected_version=expected_version,
    )
    if plaintext is not None:
        files.write(answer.plaintext, plaintext)
    fields = {
        "name": answer.name,
        "algorithm": answer.algorithm,
        "wrapped": answer.wrapped,
    }
    files.write_json(fields, target)


@crypto.command(cls=Command, examples=["hsmvault crypto random 32 --format hex"])
@click.argument("count", type=click.IntRange(1, 128))
@files.FORM
@files.OUT
@connected
def random(asking: Asking, count: int, form: str, target: Path | None) -> None:
    """Print bytes from the HSM's generator."""
    data = asking.vault.random(count)
    answer = GetRandomBytesResponse(data=data)
    files.answer(answer, files.formed(data, form), target, as_json=asking.as_json)
