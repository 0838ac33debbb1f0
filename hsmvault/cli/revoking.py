"""`hsmvault caller revoke`, `revoked` and `show`: certificates, and their end."""

import re
from pathlib import Path
from typing import Any, Final

import click
from cryptography import x509

from hsmvault.cli import printing
from hsmvault.cli.asking import Asking, changing, connected, output_option
from hsmvault.cli.groups import Command
from hsmvault.model.errors import ConfigurationError
from hsmvault.regions import revocation
from hsmvault.regions.certificates import Authority

_SERIAL: Final = re.compile(r"(?:0x)?[0-9A-Fa-f]{1,2}(?::?[0-9A-Fa-f]{1,2}){0,19}")


@click.command(
    cls=Command,
    examples=[
        "hsmvault caller revoke callers/alice.pem",
        "hsmvault caller revoke 5f:0c:11 --ca-directory ca --yes",
    ],
)
@click.argument("certificates", nargs=-1, metavar="CERTIFICATE|SERIAL...")
@click.option(
    "--ca-directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ca"),
    show_default=True,
    help="The CA that issued them, with its key.",
)
@click.option("--yes", is_flag=True, help="Do not ask, even about your own.")
@changing
def revoke(
    asking: Asking, *, certificates: tuple[str, ...], ca_directory: Path, yes: bool
) -> None:
    """Revoke client certificates: files, or serial numbers in hexadecimal.

    Signs the next revocation list with the CA's key, and has the vault take it: in
    force at once in the primary region, also for connections that are open, and in the
    others when they have received it. Without certificates it renews the list.
    """
    authority = Authority.open(ca_directory)
    serials = {_serial(given, authority) for given in certificates}
    if not yes and _own(asking) in serials:
        printing.confirm("This is the certificate you call with. Revoke it?")
    settings = asking.vault.settings
    known = settings.get()
    number = revocation.read(known.client_crl).number + 1 if known.client_crl else 1
    made = authority.revocations(known.client_crl, serials, number=number)
    # The etag: who revoked somebody else meanwhile must not be undone.
    found = settings.update(client_crl=made, etag=known.etag)
    listed = revocation.read(made)
    if asking.as_json:
        printing.dump(_told(listed) | {"position": found.position})
        return
    click.echo(
        f"{len(serials)} revoked; list number {listed.number} names "
        f"{len(listed.serials)}, at position {found.position}"
    )


@click.command(cls=Command, examples=["hsmvault caller revoked --output json"])
@connected
def revoked(asking: Asking) -> None:
    """List the serial numbers of all certificates that were revoked."""
    known = asking.vault.settings.get()
    if not known.client_crl:
        printing.note("nobody was revoked yet")
        if asking.as_json:
            printing.dump({"number": 0, "serials": []})
        return
    listed = revocation.read(known.client_crl)
    if asking.as_json:
        printing.dump(_told(listed))
        return
    for serial in sorted(listed.serials):
        click.echo(f"{serial:x}")


@click.command(cls=Command, examples=["hsmvault caller show callers/alice.pem"])
@click.argument("certificate", type=click.Path(dir_okay=False, path_type=Path))
@output_option
def show(certificate: Path, output: str) -> None:
    """Show whom a certificate names, its serial number, and until when it is good."""
    found = _read(certificate)
    names: list[str] = []
    for extension in found.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
    facts = {
        "subject": found.subject.rfc4514_string(),
        "uris": ", ".join(names),
        "serial": f"{found.serial_number:x}",
        "issuer": found.issuer.rfc4514_string(),
        "not_before": found.not_valid_before_utc.isoformat(),
        "not_after": found.not_valid_after_utc.isoformat(),
    }
    if output == "json":
        printing.dump(facts)
        return
    for name, value in facts.items():
        if value:
            click.echo(f"{name.replace('_', ' '):<11} {value}")


def _told(listed: revocation.Revocations) -> dict[str, Any]:
    return {
        "number": listed.number,
        "issuer": listed.issuer,
        "serials": [f"{serial:x}" for serial in sorted(listed.serials)],
    }


def _serial(given: str, authority: Authority) -> int:
    path = Path(given)
    if path.exists():
        certificate = _read(path)
        if not authority.issued(certificate):
            raise ConfigurationError(
                f"{path} was issued by {certificate.issuer.rfc4514_string()}, and not "
                "by this CA; name the one that issued it: --ca-directory DIR"
            )
        return certificate.serial_number
    if not _SERIAL.fullmatch(given):
        raise click.UsageError(
            f"{given!r} is neither a file nor a serial number in hexadecimal"
        )
    return int(given.removeprefix("0x").replace(":", ""), 16)


def _own(asking: Asking) -> int:
    if asking.connection.token_file is not None:
        return 0
    certificate, _ = asking.connection.identity()
    return _read(certificate).serial_number


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the certificate {path}: {error.strerror}; `hsmvault caller "
            "add` writes them, into callers/ unless told otherwise"
        ) from error
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is no certificate in PEM; take the .pem file that `hsmvault "
            "caller add` wrote"
        ) from error
