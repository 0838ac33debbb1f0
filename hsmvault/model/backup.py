"""A key as it is carried out of the vault: all of it, wrapped, and signed.

Three lines of ASCII: the format's name; the body, as canonical JSON (sorted keys, no
spaces, bytes in base64); the signature in hex. The signature is by the identity key of
the partition that the body names: ECDSA P-256 with SHA-256, raw r‖s, over the body in
`packed("hsmvault/backup/v1", body)`. There is one way to write a backup, so one that
reads and is written otherwise was edited.
"""

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any, Final, Self

from hsmvault.model.decoding import from_json
from hsmvault.model.errors import BackupInvalid
from hsmvault.model.log import packed
from hsmvault.model.stored import WrappedKey

FORMAT: Final = "hsmvault/backup/v1"
BACKUP_BYTES: Final = 2 * 1024 * 1024
"""A hundred versions of RSA-4096 for four regions take 1.4 MB."""
_LINES: Final = 4


@dataclass(frozen=True, slots=True)
class BackedUp:
    """One version: its record as it was logged, and what is wrapped of it."""

    record: bytes
    wrapped: tuple[tuple[WrappedKey, bytes], ...] = field(repr=False)
    """For each region, with the MAC of the region that wrapped it for itself."""


@dataclass(frozen=True, slots=True)
class KeyBackup:
    """One key with all its versions, as it was at a position."""

    vault_id: str
    region: str
    """Who made it: the bare id of a region, and …"""
    partition: str
    """… the partition that signed it."""
    time_ms: int
    position: str
    key: bytes
    """The key's record as it was logged."""
    versions: tuple[BackedUp, ...]
    signature: bytes = field(default=b"", repr=False)

    def statement(self) -> bytes:
        """The bytes under the signature."""
        return packed(FORMAT, self._body())

    def to_bytes(self) -> bytes:
        """Write it, signed."""
        return b"\n".join(
            (FORMAT.encode(), self._body(), self.signature.hex().encode(), b"")
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read one back, or raise BackupInvalid. Its signature is not looked at."""
        lines = raw.split(b"\n")
        if lines[0] != FORMAT.encode():
            raise BackupInvalid("this is no backup of a key, or of another release")
        try:
            if len(lines) != _LINES:
                raise ValueError
            fields = from_json(lines[1])
            read = cls(
                vault_id=_text(fields["vault_id"]),
                region=_text(fields["region"]),
                partition=_text(fields["partition"]),
                time_ms=int(fields["time_ms"]),
                position=_text(fields["position"]),
                key=_in(fields["key"]),
                versions=tuple(_version(v) for v in fields["versions"]),
                signature=bytes.fromhex(lines[2].decode("ascii")),
            )
        except (ValueError, TypeError, KeyError):
            raise BackupInvalid("the backup is cut off, or damaged") from None
        if read.to_bytes() != raw:
            raise BackupInvalid("the backup was edited")
        return read

    def _body(self) -> bytes:
        fields = {
            "vault_id": self.vault_id,
            "region": self.region,
            "partition": self.partition,
            "time_ms": self.time_ms,
            "position": self.position,
            "key": _out(self.key),
            "versions": [
                {
                    "record": _out(one.record),
                    "wrapped": [
                        {
                            "version": key.version,
                            "region": key.region,
                            "wrapping_key": key.wrapping_key,
                            "mechanism": key.mechanism,
                            "wrapped": _out(key.wrapped),
                            "mac": _out(mac),
                        }
                        for key, mac in one.wrapped
                    ],
                }
                for one in self.versions
            ],
        }
        return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def _version(fields: dict[str, Any]) -> BackedUp:
    return BackedUp(
        _in(fields["record"]),
        tuple(
            (
                WrappedKey(
                    _text(w["version"]),
                    _text(w["region"]),
                    _text(w["wrapping_key"]),
                    _text(w["mechanism"]),
                    _in(w["wrapped"]),
                ),
                _in(w["mac"]),
            )
            for w in fields["wrapped"]
        ),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _out(raw: bytes) -> str:
    return b64encode(raw).decode("ascii")


def _in(text: str) -> bytes:
    return b64decode(text, validate=True)
