"""How records and wrapped keys rest in a region's store: each under an HSM MAC."""

import dataclasses
from dataclasses import dataclass
from typing import Final

from hsmvault.model.log import Kind, packed


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """The material of one version as it leaves an HSM, for one region.

    `wrapping_key` names the key that wrapped it: `region/{region}` at rest, or
    `pair/{sender}/{receiver}` on its way. `mechanism` is a meaning, not a number: KWP
    is RFC 5649. `wrapped` is at most 8 KiB.
    """

    version: str
    region: str
    wrapping_key: str
    mechanism: str
    wrapped: bytes = dataclasses.field(repr=False)

    def statement(self, vault_id: str) -> bytes:
        """The bytes under this wrapped key's MAC."""
        return packed(
            "hsmvault/wrapped/v1",
            vault_id,
            self.version,
            self.region,
            self.wrapping_key,
            self.mechanism,
            self.wrapped,
        )


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as state keeps it: the author's bytes, and this region's MAC."""

    kind: Kind
    resource: str
    revision: int
    record: bytes
    mac: bytes = dataclasses.field(default=b"", repr=False)
    index: int = 0
    """Index of the entry that last changed it."""

    def statement(self, vault_id: str) -> bytes:
        """The bytes under this record's MAC. `index` is not known when it is made."""
        return packed(
            "hsmvault/record/v1",
            vault_id,
            self.kind,
            self.resource,
            self.revision,
            self.record,
        )


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the state as it was found: its record, or why that is not believed."""

    place: str
    stored: StoredRecord | None
    problem: str = ""
    misfiled: tuple[str, ...] = ()
    """Columns that queries go by, and that say something else than the record."""


def region_key_name(region: str) -> str:
    """Name the key that wraps what rests in `region`."""
    return f"region/{region}"


def pair_key_name(sender: str, receiver: str) -> str:
    """Name the key that wraps what travels from `sender` to `receiver`."""
    return f"pair/{sender}/{receiver}"


KWP: Final = "KWP"
"""AES key wrap with padding, RFC 5649: the one mechanism that wraps keys here."""

WRAPPED_BYTES_MAX: Final = 8192
"""An RSA-4096 private key in PKCS#8 is 2.4 KB; nothing we wrap is larger."""
