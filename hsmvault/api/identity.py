"""Who a certificate is of: the principal of one that TLS has verified.

TLS checks a certificate when a connection is made; connections outlive certificates,
so its end is looked at again on each call.
"""

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsmvault.api.account import Authentication
from hsmvault.model.errors import InvalidRequest, Unauthenticated
from hsmvault.vault.access import require_principal

KNOWN_MAX: Final = 4096

_UNREADABLE: Final = (
    ValueError,
    # These are no ValueErrors.
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, and by what it is known."""

    principal: str
    authentication: Authentication
    issuer: str
    """Who vouches: a token's issuer, or the distinguished name of a CA (RFC 4514)."""
    not_before: float
    not_after: float
    """Unix time in seconds."""
    serial: int = 0
    """Of the certificate."""
    proof: bytes = field(default=b"", repr=False)
    """The token itself, for the primary to verify again. Never logged nor stored."""


def require_now(identity: Identity) -> None:
    """Raise Unauthenticated unless the certificate is valid at this moment."""
    now = time.time()
    if not identity.not_before <= now < identity.not_after:
        raise Unauthenticated(
            "the client certificate of {principal} is not valid now; issue another "
            "one: hsmvault caller add",
            principal=identity.principal,
        )


@lru_cache(KNOWN_MAX)
def read(pem: bytes) -> Identity:
    """Read a certificate's one principal, or raise Unauthenticated.

    It is the one URI of the subject alternative name, if there is any, and a SPIFFE
    id; else `CN=` and the subject's one common name.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        uris = _uris(certificate)
        _require_of_a_caller(certificate)
    except _UNREADABLE as error:
        raise Unauthenticated("the client certificate does not read as one") from error
    if len(uris) > 1:
        raise Unauthenticated(
            "the client certificate names {count} URIs; exactly one is wanted",
            count=len(uris),
        )
    principal = uris[0] if uris else _common_name(certificate)
    try:
        # A URI may be spelled like a common name, and must not pass for one.
        if uris and not principal.startswith("spiffe://"):
            raise InvalidRequest("a URI that is no SPIFFE id")
        require_principal(principal)
    except InvalidRequest as error:
        raise Unauthenticated(
            "the client certificate's {principal!r} is no principal; expected a "
            "SPIFFE id, or a printable common name",
            principal=principal[:100],
        ) from error
    return Identity(
        principal,
        Authentication.MTLS,
        certificate.issuer.rfc4514_string(),
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        certificate.serial_number,
    )


def _require_of_a_caller(certificate: x509.Certificate) -> None:
    """Refuse a certificate that was issued for another use, by its own extensions.

    TLS looks at some of this too, but differently from one library to the next.
    """
    for extension in certificate.extensions:
        found = extension.value
        if isinstance(found, x509.BasicConstraints) and found.ca:
            raise Unauthenticated("a CA's certificate is no caller's")
        if (
            isinstance(found, x509.ExtendedKeyUsage)
            and ExtendedKeyUsageOID.CLIENT_AUTH not in found
            and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in found
        ):
            raise Unauthenticated(
                "the certificate is for another use than that of a client "
                "(extendedKeyUsage); issue one: hsmvault caller add"
            )


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except x509.ExtensionNotFound:
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1:
        raise Unauthenticated(
            "the client certificate has {count} common names and no URI; exactly one "
            "of either is wanted",
            count=len(names),
        )
    return f"CN={names[0].value!s}"
