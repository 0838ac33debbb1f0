"""The records of the vault, its regions, and their reigns."""

from dataclasses import dataclass, field
from typing import Any, Final

from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Epoch
from hsmvault.model.record import Record

RETENTION_DAYS: Final = 90
"""Azure's default, and most."""


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
    token_endpoints: tuple[str, ...] = ()
    """host:port for callers with tokens: the shared one, then the partitions'."""
    ordinal: int = 0
    """How many had joined before it, under whatever name, those that left included: it
    decides the region's share of what the vault may do only so often."""

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
            "token_endpoints": tuple(map(str, fields.get("token_endpoints", ()))),
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
    retention_days: int = RETENTION_DAYS
    """7 to 90; set when the vault is made, immutable."""
    purge_protection: bool = False
    primary_down_writes: str = "manual"
    region_limit: int = 3
    """How many extended regions there may be."""
    page_key: bytes = field(kw_only=True, repr=False)
    """AES-256: seals page tokens, so that any region goes on with another's."""
    client_ca: str = ""
    """PEM of the CA whose certificates identify callers."""
    client_crl: str = ""
    """PEM of that CA's revocation list (RFC 5280, 5); empty: nothing is revoked."""
    legacy_algorithms: tuple[str, ...] = ()
    """JOSE names of algorithms that are refused unless they stand here."""
    role_escalation: bool = False
    """Crypto Officers and Policy Administrators may grant what they do not hold."""
    ecdsa_fault_guard: bool = False
    """ECDSA signatures are verified before they leave, as RSA ones always are."""
    key_limit: int = 0
    """How many keys there may be, deleted ones included; 0: as many as fit."""
    version_limit: int = 100
    """How many versions a key may have."""
    allowed_networks: tuple[str, ...] = ()
    """CIDR blocks that callers may come from; empty: any."""
    rate_limit: int = 0
    """Calls per second that each principal may make of each partition; 0: any."""

    @property
    def recovery_level(self) -> str:
        """Azure Key Vault's word for what may become of a deleted key."""
        level = "Recoverable" if self.purge_protection else "Recoverable+Purgeable"
        return f"Customized{level}" if self.retention_days < RETENTION_DAYS else level

    @property
    def resource(self) -> str:
        """There is one vault."""
        return "vault"

    @classmethod
    def _typed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {
            "page_key": bytes.fromhex(fields["page_key"]),
            "legacy_algorithms": tuple(map(str, fields["legacy_algorithms"])),
            "allowed_networks": tuple(map(str, fields["allowed_networks"])),
        }


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
