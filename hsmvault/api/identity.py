"""Who is calling: the principal of a client certificate that TLS has verified.

TLS checks a certificate when a connection is made; connections outlive certificates,
so its end is looked at again on each call.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

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
    """A caller's certificate, read once."""

    principal: str
    not_before: float
    not_after: float
    """Unix time in seconds."""


def identify(context: grpc.ServicerContext) -> Identity:
    """Return the caller's identity, or raise Unauthenticated saying what to do."""
    pem = context.auth_context().get("x509_pem_cert")
    if not pem:
        raise Unauthenticated(
            "no client certificate was shown; issue one: hsmvault caller add"
        )
    identity = read(pem[0])
    now = time.time()
    if not identity.not_before <= now < identity.not_after:
        raise Unauthenticated(
            "the client certificate of {principal} is not valid now; issue another "
            "one: hsmvault caller add",
            principal=identity.principal,
        )
    return identity


@lru_cache(KNOWN_MAX)
def read(pem: bytes) -> Identity:
    """Read a certificate's one principal, or raise Unauthenticated.

    It is the one URI of the subject alternative name, if there is any, and a SPIFFE
    id; else `CN=` and the subject's one common name.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        uris = _uris(certificate)
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
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
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
