"""The records of keys: the key, its versions, and what is left after a purge."""

from dataclasses import dataclass
from typing import Any

from hsmvault.model.algorithms import Curve, KeySpec, KeyType, Operation
from hsmvault.model.lifecycle import KeyState, VersionState
from hsmvault.model.record import Record
from hsmvault.model.rotation import Rotation


@dataclass(frozen=True, slots=True)
class KeyRecord(Record):
    """A key: its name, its life, and which version is current."""

    name: str
    """`keys/{key}`, spelled as it was created."""
    incarnation: str
    """Random 128 bit in hex: a re-created name is another key."""
    revision: int
    spec: KeySpec
    operations: frozenset[Operation]
    create_ms: int
    update_ms: int
    current: str
    """Version id that is used when a request names none."""
    enabled: bool = True
    not_before_ms: int = 0
    expire_ms: int = 0
    tags: tuple[tuple[str, str], ...] = ()
    deletion_protection: bool = False
    state: KeyState = KeyState.ACTIVE
    delete_ms: int = 0
    purge_ms: int = 0
    """When retention ends: from then on it is purged for good."""
    rotation: Rotation | None = None
    """The rotation policy, if it has one."""

    @property
    def due_ms(self) -> int:
        """When something becomes of it by itself, by the clock: 0: never.

        A deleted key is purged, a live one rotates by its policy.
        """
        if self.state is KeyState.DELETED:
            return self.purge_ms
        return self.rotation.due_ms(self.expire_ms) if self.rotation else 0

    @property
    def resource(self) -> str:
        """The key's name without regard to case: it decides uniqueness."""
        return self.name.lower()

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {
            "spec": spec_of(fields["spec"]),
            "operations": frozenset(map(Operation, fields["operations"])),
            "tags": tuple((str(k), str(v)) for k, v in fields["tags"]),
            "state": KeyState(fields["state"]),
            "rotation": Rotation.of(fields.get("rotation")),
        }


def spec_of(fields: dict[str, Any]) -> KeySpec:
    """Read a spec back from its serialised fields."""
    curve = fields["curve"]
    return KeySpec(
        KeyType(fields["type"]),
        int(fields["bits"]),
        Curve(curve) if curve is not None else None,
    )


@dataclass(frozen=True, slots=True)
class VersionRecord(Record):
    """One version of a key. Its material is wrapped, and kept apart."""

    key: str
    """`keys/{key}`, spelled as the key was created."""
    incarnation: str
    version: str
    """Random 128 bit in hex."""
    revision: int
    spec: KeySpec
    public_key: bytes
    """SubjectPublicKeyInfo, DER (RFC 5280); empty for oct."""
    regions: tuple[str, ...]
    """The regions that it was wrapped for when it was made."""
    create_ms: int
    update_ms: int
    enabled: bool = True
    state: VersionState = VersionState.ACTIVE
    imported: bool = False
    """It came from outside, where there may be copies of it."""

    @property
    def resource(self) -> str:
        """The version's name, the key without regard to case."""
        return f"{self.key.lower()}/versions/{self.version}"

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {
            "spec": spec_of(fields["spec"]),
            "public_key": bytes.fromhex(fields["public_key"]),
            "regions": tuple(map(str, fields["regions"])),
            "state": VersionState(fields["state"]),
        }


@dataclass(frozen=True, slots=True)
class TombstoneRecord(Record):
    """What is left of a purged key: that it was, and when it ended."""

    name: str
    incarnation: str
    revision: int
    versions: tuple[str, ...]
    purge_ms: int

    @property
    def resource(self) -> str:
        """The folded name of the key that is gone."""
        return self.name.lower()

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"versions": tuple(map(str, fields["versions"]))}
