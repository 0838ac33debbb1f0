"""What the log and the state keep: one frozen dataclass per kind of record.

A record is serialised once, by its author, as canonical JSON (sorted keys, no spaces,
UTF-8), and these very bytes are logged, stored, MACed and shipped. Unknown fields are
refused, so that two releases never read one record differently. Times are Unix
milliseconds; 0 means not set. Bytes are written in hex.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final, Self

from hsmvault.model.access import RoleAssignment, Scope
from hsmvault.model.algorithms import Curve, KeySpec, KeyType, Operation
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.lifecycle import KeyState, RegionState, VersionState
from hsmvault.model.log import Epoch, Kind, packed


@dataclass(frozen=True, slots=True)
class Record:
    """What every record carries: `revision` only grows, from 1, per resource."""

    @property
    def resource(self) -> str:
        """The resource's name, under which state keeps the record."""
        raise NotImplementedError

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
            fields = json.loads(raw)
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


@dataclass(frozen=True, slots=True)
class AssignmentRecord(Record):
    """A role assignment; `removed` once it was deleted."""

    name: str
    revision: int
    principal: str
    role_definition: str
    scope: str
    create_ms: int
    author: str
    removed: bool = False

    @property
    def resource(self) -> str:
        """`roleAssignments/{id}`."""
        return self.name

    @property
    def assignment(self) -> RoleAssignment:
        """The decision's view of it."""
        return RoleAssignment(
            self.name, self.principal, self.role_definition, Scope(self.scope)
        )


@dataclass(frozen=True, slots=True)
class PartitionCard:
    """What others must know of a partition: its name and its identity key."""

    name: str
    identity: bytes
    """SubjectPublicKeyInfo (DER) of the EC P-256 identity key born in it."""


@dataclass(frozen=True, slots=True)
class RegionRecord(Record):
    """A region of the vault, with all that other regions need to trust it."""

    name: str
    """`regions/{region}`."""
    revision: int
    state: RegionState
    primary: bool
    zone: str
    """Sovereignty zone: keys never leave it."""
    endpoint: str
    """host:port of the public API, shared by the partitions."""
    partition_endpoints: tuple[str, ...]
    """host:port of each partition's own listener, in the order of `partitions`."""
    private_endpoint: str
    """host:port of the pool manager's private API."""
    partitions: tuple[PartitionCard, ...]
    certificate: str
    """PEM of the region's private identity certificate."""
    create_ms: int
    update_ms: int
    problem: str = ""
    """Why the state is FAILED, or what a waiting state waits for."""

    @property
    def resource(self) -> str:
        """`regions/{region}`."""
        return self.name

    @property
    def id(self) -> str:
        """The bare id."""
        return self.name.removeprefix("regions/")

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {
            "state": RegionState(fields["state"]),
            "partition_endpoints": tuple(map(str, fields["partition_endpoints"])),
            "partitions": tuple(
                PartitionCard(p["name"], bytes.fromhex(p["identity"]))
                for p in fields["partitions"]
            ),
        }


@dataclass(frozen=True, slots=True)
class VaultRecord(Record):
    """The vault itself and its settings."""

    vault_id: str
    """Random 128 bit in hex, equal in every region."""
    revision: int
    create_ms: int
    retention_days: int = 90
    """7 to 90; set when the vault is made, immutable."""
    purge_protection: bool = False
    primary_down_writes: str = "manual"
    region_limit: int = 3
    """How many extended regions there may be."""
    client_ca: str = ""
    """PEM of the CA whose certificates identify callers."""

    @property
    def resource(self) -> str:
        """There is one vault."""
        return "vault"


@dataclass(frozen=True, slots=True)
class EpochRecord(Record):
    """The first entry of an epoch: who reigns, and where the former one ended."""

    number: int
    region: str
    revision: int
    fork_index: int
    """Index of the former epoch's last entry; 0 for the first epoch."""
    fork_chain: bytes

    @property
    def resource(self) -> str:
        """`epochs/{number}`."""
        return f"epochs/{self.number}"

    @property
    def epoch(self) -> Epoch:
        """The epoch as a value."""
        return Epoch(self.number, self.region)

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {"fork_chain": bytes.fromhex(fields["fork_chain"])}


TYPES: Final[dict[Kind, type[Record]]] = {
    Kind.EPOCH: EpochRecord,
    Kind.VAULT: VaultRecord,
    Kind.REGION: RegionRecord,
    Kind.ROLE_ASSIGNMENT: AssignmentRecord,
    Kind.KEY: KeyRecord,
    Kind.KEY_VERSION: VersionRecord,
    Kind.TOMBSTONE: TombstoneRecord,
}
"""The type of record that each kind of entry carries."""


def read(kind: Kind, raw: bytes) -> Record:
    """Read a record of any kind, or raise IntegrityFailure."""
    known = TYPES.get(kind)
    if known is None:
        raise IntegrityFailure("a record of unknown kind {kind}", kind=kind)
    return known.from_bytes(raw)


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


def etag(record: bytes) -> str:
    """Derive the etag of a record: it changes whenever any of its bytes do."""
    return hashlib.sha256(record).hexdigest()[:32]
