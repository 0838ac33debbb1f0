"""The order of everything: epochs, positions, entries, and the chain over them.

A position is (epoch, index) and is written `epoch.region.index`, as in `1.north.42`.
Indexes go on counting across epochs; the first entry of an epoch records the fork.
"""

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

from hsmvault.model.errors import InvalidRequest


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """One reign: its number, and the region that is primary in it."""

    number: int
    region: str

    def __str__(self) -> str:
        return f"{self.number}.{self.region}"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the log. Later entries have greater positions on one lineage."""

    epoch: Epoch
    index: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `epoch.region.index`, or raise InvalidRequest."""
        match = re.fullmatch(r"(\d{1,9})\.([a-z][a-z0-9-]{0,23})\.(\d{1,18})", text)
        if match is None:
            raise InvalidRequest(
                "malformed position {text!r}; expected epoch.region.index, "
                "as a write answered it",
                text=text[:100],
            )
        return cls(Epoch(int(match[1]), match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.epoch}.{self.index}"


class Kind(StrEnum):
    """What an entry changes."""

    EPOCH = "epoch"
    VAULT = "vault"
    REGION = "region"
    ROLE_DEFINITION = "role_definition"
    ROLE_ASSIGNMENT = "role_assignment"
    KEY = "key"
    KEY_VERSION = "key_version"
    IMPORT = "import"
    """A wrapping key for one import, and whether it was used."""
    AUDIT_HEAD = "audit_head"
    """How far an audit trail was. Decides nothing; kept where its author cannot."""
    TOMBSTONE = "tombstone"
    """The resource is gone for good; the record says what it was."""


ACCESS_KINDS: Final = frozenset({Kind.ROLE_DEFINITION, Kind.ROLE_ASSIGNMENT})
"""Entries that change who may do what."""

GENESIS: Final = bytes(32)
"""The chain before the first entry."""


@dataclass(frozen=True, slots=True)
class RequestMark:
    """Which request made an entry, so that repeating it gives the same answer.

    `principal`, `method` and `request_id` identify it; `digest` is SHA-256 of the
    request, so that reusing an id for something else is noticed; `answer` is what was
    answered, serialised.
    """

    principal: str
    method: str
    request_id: str
    digest: bytes
    answer: bytes

    def require_repeated(self, digest: bytes) -> None:
        """Raise InvalidRequest unless the request with that digest is this very one."""
        if self.digest != digest:
            raise InvalidRequest(
                "request_id {request_id!r} was used for another request; choose a "
                "new one",
                request_id=self.request_id,
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `record` is kept and shipped exactly as its author wrote it."""

    position: Position
    time_ms: int
    """Unix time in milliseconds, by the author's clock."""
    kind: Kind
    resource: str
    record: bytes
    chain: bytes = field(default=b"", repr=False)
    """SHA-256 over the previous chain value and this entry; 32 bytes."""
    request: RequestMark | None = field(default=None, repr=False)


def packed(*parts: bytes | str | int) -> bytes:
    """Join parts so that no two different lists of parts give the same bytes."""
    out = bytearray()
    for part in parts:
        if isinstance(part, int):
            raw = part.to_bytes(8, "big", signed=True)
        else:
            raw = part.encode() if isinstance(part, str) else part
        out += len(raw).to_bytes(4, "big") + raw
    return bytes(out)


def chain(previous: bytes, entry: Entry) -> bytes:
    """Return the chain value of `entry`, given that of the entry before it."""
    mark = entry.request
    request = (
        b""
        if mark is None
        else packed(
            mark.principal, mark.method, mark.request_id, mark.digest, mark.answer
        )
    )
    return hashlib.sha256(
        packed(
            previous,
            entry.position.epoch.number,
            entry.position.epoch.region,
            entry.position.index,
            entry.time_ms,
            entry.kind,
            entry.resource,
            entry.record,
            request,
        )
    ).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a log, and its chain value there."""

    position: Position
    chain: bytes

    def statement(self, vault_id: str) -> bytes:
        """The bytes that an identity key signs to vouch for this head."""
        return packed(
            "hsmvault/head/v1",
            vault_id,
            self.position.epoch.number,
            self.position.epoch.region,
            self.position.index,
            self.chain,
        )

    def base_statement(self, vault_id: str) -> bytes:
        """The bytes that a region MACs when it has its log begin after this head."""
        return packed("hsmvault/base/v1", self.statement(vault_id))


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A head and the signature of one partition of the epoch's primary region.

    `signature` is ECDSA P-256 over SHA-256 of `head.statement(...)`, raw r‖s, 64 bytes.
    """

    head: Head
    partition: str
    signature: bytes
