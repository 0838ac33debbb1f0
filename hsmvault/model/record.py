"""What every record is: one frozen dataclass, serialised once by its author.

Canonical JSON (sorted keys, no spaces, UTF-8), and these very bytes are logged, stored,
MACed and shipped. Unknown fields are refused, so that two releases never read one
record differently. Times are Unix milliseconds; 0 means not set. Bytes are written in
hex.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import IntegrityFailure


@dataclass(frozen=True, slots=True)
class Record:
    """What every record carries: `revision` only grows, from 1, per resource."""

    @property
    def resource(self) -> str:
        """The resource's name, under which state keeps the record."""
        raise NotImplementedError

    @property
    def due_ms(self) -> int:
        """When something becomes of it by itself; 0: it waits for nothing."""
        return 0

    def to_bytes(self) -> bytes:
        """Serialise. Call once; keep and ship these bytes."""
        return json.dumps(
            dataclasses.asdict(self),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            default=_plain,
        ).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read a record back, or raise IntegrityFailure: its bytes are not ours."""
        try:
            fields = from_json(raw)
            return cls(**cls._typed(fields))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise IntegrityFailure(
                "a stored {kind} does not read as one", kind=cls.__name__
            ) from error

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, frozenset):
        return sorted(value)
    message = f"{type(value).__name__} has no canonical form"
    raise TypeError(message)


def etag(record: bytes) -> str:
    """Derive the etag of a record: it changes whenever any of its bytes do."""
    return hashlib.sha256(record).hexdigest()[:32]
