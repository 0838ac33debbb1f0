"""The record of an import: a wrapping key that is good for one key."""

from dataclasses import dataclass
from typing import Any

from hsmvault.model.record import Record


@dataclass(frozen=True, slots=True)
class ImportRecord(Record):
    """A wrapping key. Its private half is in no store: one process holds it."""

    name: str
    """`imports/{import}`."""
    revision: int
    key: str
    """`keys/{key}`: the one name that may be imported by it."""
    bits: int
    public_key: bytes
    """SubjectPublicKeyInfo, DER, of the RSA wrapping key."""
    region: str
    """The bare id of the region, and …"""
    partition: str
    """… the partition whose process holds the private half."""
    author: str
    """The principal who began it."""
    create_ms: int
    expire_ms: int
    used_ms: int = 0
    """When somebody tried to import by it. That was the only time."""

    @property
    def resource(self) -> str:
        """`imports/{import}`."""
        return self.name

    @property
    def id(self) -> str:
        """The bare id."""
        return self.name.removeprefix("imports/")

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"public_key": bytes.fromhex(fields["public_key"])}
