"""The certificates of a vault: a private CA, listeners, callers, regions' identities.

EC P-256 throughout. Callers and listeners are certified by the vault's CA; a region's
private identity certifies itself, and its peers pin it.
"""

import datetime
import ipaddress
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsmvault.model.errors import AlreadyExists, ConfigurationError, InvalidRequest
from hsmvault.regions.files import require_private, write_public, write_secret

CA_DAYS: Final = 3650
SERVER_DAYS: Final = 825
"""Longer lifetimes are refused by some TLS stacks."""
CALLER_DAYS: Final = 90
REVOCATIONS_DAYS: Final = 30
"""By then there should be a next list; until there is, the last one stays in force."""
IDENTITY_DAYS: Final = 3650
"""Peers pin the certificate itself; a new one takes a ceremony."""

_BACKDATED: Final = datetime.timedelta(minutes=5)
"""Clocks of callers and regions differ by a little."""

_CALLER: Final = r"[0-9A-Za-z][0-9A-Za-z._@-]{0,62}"
_SPIFFE: Final = r"spiffe://[a-z0-9._-]{1,255}(?:/[0-9A-Za-z._-]{1,255}){1,8}"


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class ClientFiles:
    """What a caller needs to connect, and the name that roles are assigned to."""

    certificate: Path
    key: Path
    ca: Path
    principal: str
    """`CN=…`, or the SPIFFE id."""


class Authority:
    """The vault's private CA, opened from its directory (`ca.pem`, `ca.key`)."""

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> None:
        """Take a CA as it is; use `make` or `open`."""
        self._certificate = certificate
        self._key = key

    @classmethod
    def make(cls, directory: Path, *, name: str) -> "Authority":
        """Make a CA and keep it in `directory` (0700); its key never leaves there."""
        if (directory / "ca.key").exists():
            raise AlreadyExists(
                "there is a CA in {directory} already; use it, or choose another one",
                directory=directory,
            )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        certificate = (
            _builder(subject, subject, key.public_key(), days=CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        write_secret(directory / "ca.key", _pem_key(key))
        write_public(directory / "ca.pem", certificate.public_bytes(Encoding.PEM))
        return cls(certificate, key)

    @classmethod
    def open(cls, directory: Path) -> "Authority":
        """Open a CA, or raise ConfigurationError saying what is missing."""
        try:
            certificate = x509.load_pem_x509_certificate(
                (directory / "ca.pem").read_bytes()
            )
            key = load_pem_private_key((directory / "ca.key").read_bytes(), None)
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"no CA in {directory}: it must hold ca.pem and ca.key, as "
                "`hsmvault vault init` makes them"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ConfigurationError(f"{directory}/ca.key is not an EC key")
        require_private(directory / "ca.key")
        return cls(certificate, key)

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, as PEM."""
        return self._certificate.public_bytes(Encoding.PEM)

    def server(self, name: str, *, hosts: Sequence[str]) -> Certified:
        """Certify a listener that is reached by these host names and addresses."""
        return self._issue(
            _subject(name),
            [_host(host) for host in hosts],
            ExtendedKeyUsageOID.SERVER_AUTH,
            days=SERVER_DAYS,
        )

    def caller(
        self, name: str, *, spiffe: str = "", days: int = CALLER_DAYS
    ) -> Certified:
        """Certify a caller. One with a SPIFFE id is known by that alone."""
        if not re.fullmatch(_CALLER, name):
            raise InvalidRequest(
                "malformed caller name {name!r}; expected 1 to 63 letters, digits, "
                "dots, dashes, underscores and @",
                name=name[:100],
            )
        if spiffe and not re.fullmatch(_SPIFFE, spiffe):
            raise InvalidRequest(
                "malformed SPIFFE id {spiffe!r}; expected spiffe://domain/path",
                spiffe=spiffe[:200],
            )
        names = [x509.UniformResourceIdentifier(spiffe)] if spiffe else []
        return self._issue(
            _subject(name), names, ExtendedKeyUsageOID.CLIENT_AUTH, days=days
        )

    def revocations(
        self,
        former: str,
        serials: Collection[int],
        *,
        number: int,
        days: int = REVOCATIONS_DAYS,
    ) -> str:
        """Sign the revocation list that follows `former`, which it all contains.

        The list is PEM (RFC 5280, 5), number `number`, and wants a next one in `days`.
        """
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now)
            .next_update(now + datetime.timedelta(days=days))
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self._key.public_key()
                ),
                critical=False,
            )
        )
        dates = dict.fromkeys(serials, now)
        if former:
            known = x509.load_pem_x509_crl(former.encode())
            dates.update({o.serial_number: o.revocation_date_utc for o in known})
        for serial, date in sorted(dates.items()):
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(date)
                .build()
            )
        signed = builder.sign(self._key, hashes.SHA256())
        return signed.public_bytes(Encoding.PEM).decode("ascii")

    def issued(self, certificate: x509.Certificate) -> bool:
        """Tell whether this CA issued a certificate."""
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _issue(
        self,
        subject: x509.Name,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        *,
        days: int,
    ) -> Certified:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            _builder(subject, self._certificate.subject, key.public_key(), days=days)
            .add_extension(
                x509.BasicConstraints(ca=False, path_length=None), critical=True
            )
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self._key.public_key()
                ),
                critical=False,
            )
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=False
            )
        certificate = builder.sign(self._key, hashes.SHA256())
        return Certified(certificate.public_bytes(Encoding.PEM), _pem_key(key))


def private_identity(region: str) -> Certified:
    """Make a region's own identity: what its peers pin, for both ends of a link."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(region)
    certificate = (
        _builder(subject, subject, key.public_key(), days=IDENTITY_DAYS)
        # No CA: a region that could certify others could speak for them.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName(private_host(region)),
                    x509.UniformResourceIdentifier(
                        f"spiffe://hsmvault/region/{region}"
                    ),
                ]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    return Certified(certificate.public_bytes(Encoding.PEM), _pem_key(key))


def private_host(region: str) -> str:
    """Name the host that a region's private certificate is made out to."""
    return f"{region}.hsmvault.internal"


def add_caller(
    ca_directory: Path,
    name: str,
    out_directory: Path,
    *,
    spiffe: str = "",
    days: int = CALLER_DAYS,
) -> ClientFiles:
    """Issue a client certificate. It may do nothing until a role is assigned to it."""
    authority = Authority.open(ca_directory)
    issued = authority.caller(name, spiffe=spiffe, days=days)
    files = ClientFiles(
        certificate=out_directory / f"{name}.pem",
        key=out_directory / f"{name}.key",
        ca=out_directory / "ca.pem",
        principal=spiffe or f"CN={name}",
    )
    if files.key.exists():
        raise AlreadyExists(
            "{path} exists; remove it to issue another certificate, or choose another "
            "directory",
            path=files.key,
        )
    out_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(files.key, issued.key)
    write_public(files.certificate, issued.certificate)
    if not files.ca.exists():
        write_public(files.ca, authority.certificate)
    return files


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
