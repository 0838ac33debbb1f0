"""The vault's revocation list: which client certificates are good no more.

A CRL (RFC 5280, 5) of the CA that certifies callers. It is part of the vault's record,
so every region has it, and it is read once for each change.
"""

import datetime
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hsmvault.model.errors import CertificateRevoked, IntegrityFailure, InvalidRequest

BYTES_MAX: Final = 128 * 1024
"""Some 4 000 entries. It travels in one request, and to every region."""
_AHEAD_MAX: Final = datetime.timedelta(minutes=5)
_KNOWN: Final = (x509.CRLNumber, x509.AuthorityKeyIdentifier)
_ENTRY_KNOWN: Final = (x509.CRLReason, x509.InvalidityDate)


@dataclass(frozen=True, slots=True)
class Revocations:
    """A revocation list, read."""

    issuer: str
    """The CA's distinguished name (RFC 4514)."""
    serials: frozenset[int]
    number: int
    """It only grows; 0: the list has none."""
    this_update: datetime.datetime
    next_update: float
    """Unix time in seconds by which there should be a newer one; inf: it says none."""

    def revoke(self, issuer: str, serial: int) -> bool:
        """Tell whether the certificate of this serial number was revoked."""
        return serial in self.serials and issuer == self.issuer


@lru_cache(4)
def read(pem: str) -> Revocations:
    """Read a list that the vault's record holds, or raise IntegrityFailure."""
    try:
        return _read(_loaded(pem))
    except (ValueError, InvalidRequest) as error:
        # It was checked when it came: who changed it did so behind our back.
        raise IntegrityFailure(
            "the vault's revocation list does not read; nobody is let in without it"
        ) from error


def require_unrevoked(pem: str, *, issuer: str, serial: int, principal: str) -> None:
    """Raise CertificateRevoked if the vault's list names a certificate."""
    if pem and read(pem).revoke(issuer, serial):
        raise CertificateRevoked(
            "the client certificate of {principal} with serial number {serial} was "
            "revoked; issue another one: hsmvault caller add",
            principal=principal,
            serial=f"{serial:x}",
        )


def require_next(pem: str, *, authority: str, former: str) -> Revocations:
    """Return a list that may take the place of `former`, or raise InvalidRequest.

    It is signed by the CA of the vault's callers, is of now, and is newer: an old list
    would bring back who was revoked since. One whose next update is due is taken: it
    says more than the one before.
    """
    if not pem:
        raise InvalidRequest(
            "a revocation list cannot be taken away; put one there that revokes nobody"
        )
    if len(pem) > BYTES_MAX:
        raise InvalidRequest(
            "the revocation list has {given} characters, {most} at most are taken; "
            "leave out certificates that have expired",
            given=len(pem),
            most=BYTES_MAX,
        )
    crl = _loaded(pem)
    _require_signed(crl, authority)
    found = _read(crl)
    if crl.last_update_utc > datetime.datetime.now(datetime.UTC) + _AHEAD_MAX:
        raise InvalidRequest(
            "the revocation list is of {date}, which is to come; set the clock of the "
            "machine that made it",
            date=crl.last_update_utc.isoformat(),
        )
    if former and pem != former:
        _require_newer(found, read(former))
    return found


def _loaded(pem: str) -> x509.CertificateRevocationList:
    try:
        return x509.load_pem_x509_crl(pem.encode())
    except ValueError as error:
        raise InvalidRequest(
            "the revocation list is not a CRL in PEM; hsmvault caller revoke makes one"
        ) from error


def _read(crl: x509.CertificateRevocationList) -> Revocations:
    try:
        _require_plain(crl)
        number = next(
            (
                found.value.crl_number
                for found in crl.extensions
                if isinstance(found.value, x509.CRLNumber)
            ),
            0,
        )
        serials = frozenset(one.serial_number for one in crl)
    except (x509.DuplicateExtension, ValueError, TypeError) as error:
        raise InvalidRequest("the revocation list does not read") from error
    due = crl.next_update_utc
    return Revocations(
        crl.issuer.rfc4514_string(),
        serials,
        number,
        crl.last_update_utc,
        due.timestamp() if due else float("inf"),
    )


def _require_plain(crl: x509.CertificateRevocationList) -> None:
    """Refuse lists that speak of other CAs' certificates, or only of changes."""
    odd = [
        found.oid.dotted_string
        for found in crl.extensions
        if found.critical and not isinstance(found.value, _KNOWN)
    ]
    odd += [
        found.oid.dotted_string
        for one in crl
        for found in one.extensions
        if found.critical and not isinstance(found.value, _ENTRY_KNOWN)
    ]
    if odd:
        raise InvalidRequest(
            "the revocation list has critical extensions that are not understood "
            "here ({odd}); a plain, complete list is wanted",
            odd=", ".join(sorted(set(odd)))[:200],
        )


def _require_signed(crl: x509.CertificateRevocationList, authority: str) -> None:
    try:
        known = x509.load_pem_x509_certificates(authority.encode())
        signed = any(_signs(ca, crl) for ca in known)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature):
        signed = False
    if not signed:
        raise InvalidRequest(
            "the revocation list is not signed by the CA that certifies this vault's "
            "callers; hsmvault caller revoke --ca-directory DIR makes one that is"
        )


def _signs(ca: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    key = ca.public_key()
    return (
        isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
        and crl.issuer == ca.subject
        and crl.is_signature_valid(key)
    )


def _require_newer(found: Revocations, former: Revocations) -> None:
    if former.number or found.number:
        newer = found.number > former.number
    else:
        newer = found.this_update > former.this_update
    if not newer:
        raise InvalidRequest(
            "the revocation list is number {given} of {given_date}, and the vault has "
            "number {present} of {present_date}; make the next one: hsmvault caller "
            "revoke",
            given=found.number,
            given_date=found.this_update.isoformat(),
            present=former.number,
            present_date=former.this_update.isoformat(),
        )
