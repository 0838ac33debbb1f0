"""Orders about regions: how they are asked for, and what only a signature sets going.

A region destroys itself on nothing less: no peer, and no session of an administrator
with another region, can make it. The signature is by the key of the administrator's
client certificate: ECDSA with SHA-256, or RSA-PSS with SHA-256 and a salt of 32 bytes.
"""

from dataclasses import dataclass, field
from typing import Final

from hsmvault.model.log import RequestMark, packed

ORDER_MS: Final = 10 * 60 * 1000
"""How far an order's time may lie from the clock of whoever checks it."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a change of regions is asked for."""

    method: str = ""
    request_id: str = ""
    """Repeating the request with the same id gives the same answer (AIP-155)."""
    digest: bytes = b""
    """SHA-256 of the request."""
    validate_only: bool = False
    """Decide, answer what would be, and leave no trace (AIP-163)."""

    def mark(self, principal: str, answer: bytes) -> RequestMark | None:
        """What is kept with the entry, so that a repetition is known."""
        if not self.request_id:
            return None
        return RequestMark(principal, self.method, self.request_id, self.digest, answer)


PLAIN: Final = Terms()
"""Once, and for real."""


def removal_statement(vault_id: str, region: str, time_ms: int) -> bytes:
    """The bytes that an administrator signs to have `regions/{region}` removed."""
    return packed("hsmvault/remove-region/v1", vault_id, f"regions/{region}", time_ms)


@dataclass(frozen=True, slots=True)
class RemovalOrder:
    """An administrator's order to remove a region."""

    region: str
    """The bare id."""
    time_ms: int
    certificate: str
    """PEM, of the administrator's client certificate."""
    signature: bytes = field(repr=False)

    def statement(self, vault_id: str) -> bytes:
        """The bytes under the signature."""
        return removal_statement(vault_id, self.region, self.time_ms)
