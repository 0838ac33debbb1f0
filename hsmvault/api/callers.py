"""Who calls: one certificate or one token, and never both.

A certificate is what TLS verified when the connection was made; connections outlive
certificates, so its end, and whether it was revoked, are looked at on each call. A
token comes with the call itself, over a connection that asked for no certificate.
"""

import time
from collections.abc import Sequence
from typing import Final

import grpc

from hsmvault import telemetry
from hsmvault.api.account import Authentication
from hsmvault.api.identity import Identity, read, require_now
from hsmvault.api.tokens import Tokens
from hsmvault.model.errors import Unauthenticated
from hsmvault.model.vault_records import VaultRecord
from hsmvault.regions import revocation
from hsmvault.regions.issuers import Issuer
from hsmvault.telemetry import Event

AUTHORIZATION: Final = "authorization"
_SCHEME: Final = "bearer "


class Callers:
    """Tells who calls. For any thread."""

    def __init__(self, issuers: Sequence[Issuer] = ()) -> None:
        """Believe certificates, and the tokens of these issuers."""
        self.tokens = Tokens(issuers)
        self._listed: tuple[str, revocation.Revocations] | None = None
        self._overdue = -1

    def identify(self, context: grpc.ServicerContext) -> Identity:
        """Return the caller's one identity, or raise Unauthenticated.

        Raises IssuerUnavailable when a token cannot be verified now.
        """
        shown = context.auth_context().get("x509_pem_cert")
        given: list[str | bytes] = []
        # Hot: a loop, because a comprehension is one more call.
        for name, value in context.invocation_metadata():
            if name == AUTHORIZATION:
                given.append(value)
        if shown and not given:
            identity = read(shown[0])
            require_now(identity)
            return identity
        if shown:
            raise Unauthenticated(
                "a client certificate and a token came with one call; which of them "
                "it is to be is not for us to choose: show one. Tokens go to the "
                "region's token ports"
            )
        if len(given) != 1:
            raise Unauthenticated(
                "no client certificate was shown, and {count} authorization headers; "
                "exactly one of either is wanted. hsmvault caller add issues "
                "certificates",
                count=len(given),
            )
        return self.of_token(_bearer(given[0]))

    def require_unrevoked(self, identity: Identity, vault: VaultRecord) -> None:
        """Raise CertificateRevoked if the vault's list names the certificate.

        By the list of the view that the call is decided by: in force at once, also for
        connections that were open before.
        """
        if identity.authentication is not Authentication.MTLS or not vault.client_crl:
            return
        # Remembered by the very object: comparing 100 KiB for each call would cost.
        listed = self._listed
        if listed is None or listed[0] is not vault.client_crl:
            listed = (vault.client_crl, revocation.read(vault.client_crl))
            self._learn(listed[1])
            self._listed = listed
        if listed[1].revoke(identity.issuer, identity.serial):
            revocation.require_unrevoked(
                vault.client_crl,
                issuer=identity.issuer,
                serial=identity.serial,
                principal=identity.principal,
            )
        if time.time() > listed[1].next_update and self._overdue != listed[1].number:
            self._overdue = listed[1].number
            telemetry.report(
                Event.REVOCATIONS_OVERDUE,
                number=listed[1].number,
                issuer=listed[1].issuer,
            )

    def _learn(self, listed: revocation.Revocations) -> None:
        known = self._listed
        if known is None or known[1] != listed:
            telemetry.report(
                Event.REVOCATIONS_CHANGED,
                number=listed.number,
                revoked=len(listed.serials),
            )

    def require_proof(self, proof: bytes, *, of: str) -> None:
        """Raise Unauthenticated unless a forwarded token is one, and `of` them."""
        if self.of_token(proof.decode("latin-1")).principal != of:
            raise Unauthenticated(
                "the token that came with the forwarded call is not of {principal}",
                principal=of,
            )

    def of_token(self, token: str) -> Identity:
        """Return whose token this is, as `identify` does."""
        proven = self.tokens.verify(token)
        return Identity(
            proven.principal,
            Authentication.JWT,
            proven.issuer,
            not_before=0.0,
            not_after=proven.not_after,
            proof=token.encode("ascii"),
        )


def _bearer(value: str | bytes) -> str:
    """Take the token out of an authorization header (RFC 6750, 2.1)."""
    text = value if isinstance(value, str) else value.decode("latin-1")
    if not text.lower().startswith(_SCHEME):
        raise Unauthenticated(
            "the authorization header is not `Bearer` and a token; no other scheme is "
            "known here"
        )
    return text[len(_SCHEME) :].strip(" ")
