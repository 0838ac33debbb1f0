"""What the log keeps of the audit trails: how far each was, signed in the HSM."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from hsmvault.model.log import packed
from hsmvault.model.record import Record


@dataclass(frozen=True, slots=True)
class AuditHead:
    """The end of one process's trail, as a partition of its region vouches for it.

    `signature` is ECDSA P-256 over SHA-256 of the statement, raw r‖s, 64 bytes.
    """

    region: str
    process: str
    segment: int
    sequence: int
    chain: bytes
    time_ms: int
    partition: str = ""
    signature: bytes = dataclasses.field(default=b"", repr=False)

    def signed(self, partition: str, signature: bytes) -> "AuditHead":
        """The same head, with who vouches for it."""
        return dataclasses.replace(self, partition=partition, signature=signature)

    @property
    def name(self) -> str:
        """`auditHeads/{region}.{process}`."""
        return f"auditHeads/{self.region}.{self.process}"

    def statement(self, vault_id: str) -> bytes:
        """The bytes that an identity key signs."""
        return packed(
            "hsmvault/audit-head/v1",
            vault_id,
            self.region,
            self.process,
            self.segment,
            self.sequence,
            self.chain,
            self.time_ms,
        )


@dataclass(frozen=True, slots=True)
class AuditHeadRecord(Record):
    """The newest head of one trail. Its sequence only grows."""

    name: str
    revision: int
    region: str
    process: str
    segment: int
    sequence: int
    chain: bytes
    time_ms: int
    partition: str
    signature: bytes = dataclasses.field(repr=False)

    @classmethod
    def of(cls, head: AuditHead, *, revision: int) -> "AuditHeadRecord":
        """Make the record of a head."""
        return cls(
            head.name,
            revision,
            head.region,
            head.process,
            head.segment,
            head.sequence,
            head.chain,
            head.time_ms,
            head.partition,
            head.signature,
        )

    @property
    def resource(self) -> str:
        """`auditHeads/{region}.{process}`."""
        return self.name

    @property
    def head(self) -> AuditHead:
        """What was signed, and by whom."""
        return AuditHead(
            self.region,
            self.process,
            self.segment,
            self.sequence,
            self.chain,
            self.time_ms,
            self.partition,
            self.signature,
        )

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        raw = {name: bytes.fromhex(fields[name]) for name in ("chain", "signature")}
        return {**fields, **raw}
