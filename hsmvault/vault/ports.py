"""What the vault needs from the HSM and from the store, in its own words.

`hsm` and `store` satisfy these without importing them; mypy checks it in `server`,
where they meet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hsmvault.model.algorithms import Algorithm, KeySpec
from hsmvault.model.invocations import Count, Reckoning
from hsmvault.model.log import Entry, Epoch, Head, Kind, Position, RequestMark

# Known by these names here too: the rooms above speak of the vault's ports.
from hsmvault.model.material import Blob as Blob  # noqa: PLC0414
from hsmvault.model.material import Generated as Generated  # noqa: PLC0414
from hsmvault.model.material import Material as Material  # noqa: PLC0414
from hsmvault.model.material import Plain as Plain  # noqa: PLC0414
from hsmvault.model.material import Sealed as Sealed  # noqa: PLC0414
from hsmvault.model.stored import StoredRecord, WrappedKey


class Hsm(Protocol):
    """One HSM partition, logged in, its keys checked. Safe to call from any thread.

    Every method may raise NoFreeSession (all sessions leased until the bound) and
    PartitionLost (device fault: this process is about to end).
    """

    @property
    def name(self) -> str: ...

    def generate(
        self, version: str, spec: KeySpec, *, regions: Sequence[str]
    ) -> Generated:
        """Make material and wrap it for each region; nothing stays in the partition.

        The own region gets it under its region key, others under the pair key towards
        them. Raises NotSupported where the token cannot make or wrap such a key.
        """

    def bring(self, version: str, plain: Plain, *, regions: Sequence[str]) -> Generated:
        """Bring in material that came in the clear, as if it had been made here.

        Raises KeyMaterialInvalid if it is weak, or not what it is said to be.
        """

    def begin_import(self, import_id: str, bits: int, *, expire_ms: int) -> bytes:
        """Make a wrapping key that nobody but this process can use, once.

        Answers its public half. It ends with the process. Raises LimitReached.
        """

    def holds_import(self, import_id: str) -> bool:
        """Tell whether the wrapping key is here."""

    def finish_import(
        self, import_id: str, version: str, blob: Blob, *, regions: Sequence[str]
    ) -> Generated:
        """Open what came under a wrapping key; it is gone in every case.

        Raises ImportSpent if it is not here, and KeyMaterialInvalid.
        """

    def end_imports(self, import_ids: Sequence[str], *, now_ms: int) -> None:
        """Destroy these wrapping keys, and all that expired."""

    def self_test(self, material: Material) -> None:
        """Open it and use it once. Raises WrappedKeyInvalid if it is not as it says."""

    def sign(self, material: Material, algorithm: Algorithm, digest: bytes) -> bytes:
        """Sign a digest; for HS*, MAC the data that is given in its place.

        ECDSA answers raw r||s. RSA is verified before it answers.
        """

    def verify(
        self, material: Material, algorithm: Algorithm, digest: bytes, signature: bytes
    ) -> bool:
        """Verify what `sign` made; a MAC is compared in constant time."""

    def encrypt(
        self, material: Material, algorithm: Algorithm, plaintext: bytes, aad: bytes
    ) -> Sealed:
        """Encrypt. iv and tag are empty for RSA."""

    def decrypt(
        self, material: Material, algorithm: Algorithm, sealed: Sealed, aad: bytes
    ) -> bytes:
        """Decrypt, or raise CiphertextInvalid, which says nothing more."""

    def wrap(
        self, material: Material, algorithm: Algorithm, plaintext: bytes
    ) -> bytes: ...

    def unwrap(self, material: Material, algorithm: Algorithm, wrapped: bytes) -> bytes:
        """Unwrap the caller's bytes, or raise CiphertextInvalid."""

    def random(self, count: int) -> bytes:
        """Return `count` bytes from the token's generator."""

    def forget(self, versions: Sequence[str]) -> None:
        """Destroy what is open of these versions; in-flight operations finish."""

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        """MAC each statement with the region's integrity key: 32 bytes each."""

    def check_macs(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Check (statement, mac) pairs in the HSM. Raises IntegrityFailure."""

    def rewrap(
        self, spec: KeySpec, public_key: bytes, wrapped: WrappedKey
    ) -> WrappedKey:
        """Open what came under a pair key and wrap it under the own region key."""

    def seal(self, material: Material, region: str) -> WrappedKey:
        """Wrap an existing version for another region, under the pair key to it."""

    def sign_statement(self, statement: bytes) -> bytes:
        """ECDSA P-256 over SHA-256 of it with the identity key: raw r||s, 64 bytes."""


class PoolHsm(Protocol):
    """What a partition does for the pool manager, besides serving."""

    def drop_pair_keys(self, region: str) -> int:
        """Destroy the pair keys to and from `region`; returns how many there were."""

    def has_pair_keys(self, region: str) -> bool:
        """Tell whether both pair keys with `region` are in this partition."""

    def write_anchor(self, head: Head) -> None:
        """Remember the newest head in the token. Never goes back within an epoch."""

    def read_anchor(self) -> Head | None: ...


@dataclass(frozen=True, slots=True)
class Change:
    """One entry to append and the state that it leaves behind.

    `stored` is the new state of the resource; its revision must be exactly one more
    than what the store holds (1: absent until now). A TOMBSTONE drops the state row of
    the key, its versions' rows, and their wrapped keys for every region.
    """

    stored: StoredRecord
    wrapped: tuple[tuple[WrappedKey, bytes], ...] = ()
    """Wrapped keys to put, each with its MAC."""


@dataclass(frozen=True, slots=True)
class Expect:
    """What a write was decided on, checked again inside its transaction."""

    epoch: Epoch
    """This region must be primary in this epoch."""
    access_index: int | None = None
    """Index of the last entry of ACCESS_KINDS; None: not decided on access."""
    regions_index: int | None = None
    """Index of the last REGION entry; None: not decided on the set of regions."""


class Store(Protocol):
    """The log and the state it adds up to. Safe to call from any thread."""

    def changed(self) -> bool:
        """Tell whether another connection committed since this thread last asked."""

    def head(self) -> Head | None:
        """The end of the log, or None before the first entry."""

    def head_at(self, index: int) -> Head | None:
        """The head as it was at `index`; None beyond the end. Raises LogCompacted."""

    def epoch(self) -> Epoch | None: ...

    def sealed_base(self) -> tuple[Head, bytes] | None:
        """The head that the log begins after, with its MAC; None: at the first entry.

        Nobody has checked the MAC yet.
        """

    def entries(self, after: int, *, limit: int = 1000) -> list[Entry]:
        """Entries with index > `after`, in order."""

    def state(self, resource: str) -> StoredRecord | None:
        """One resource. Raises IntegrityFailure when log and state disagree."""

    def states(
        self,
        kind: Kind,
        *,
        after: str = "",
        prefix: str = "",
        limit: int = 1000,
        state: str | None = None,
    ) -> list[StoredRecord]:
        """State of one kind, ordered by resource, from beyond `after`.

        `state` keeps those whose record is in that state, as in "DELETED".
        """

    def key_count(self) -> int:
        """How many keys there are, deleted ones included; costs the same for any."""

    def version_count(self, key: str) -> int:
        """How many versions a key, by its resource, has."""

    def reached(self, position: Position) -> bool:
        """Tell whether this region is at or past it. Raises PositionLost."""

    def wrapped(self, version: str, region: str) -> tuple[WrappedKey, bytes] | None:
        """One wrapped key with its MAC."""

    def last_index(self, kinds: Sequence[Kind]) -> int:
        """Index of the last entry of one of these kinds; 0: none."""

    def request(
        self, principal: str, method: str, request_id: str
    ) -> RequestMark | None:
        """The mark of an earlier request, if its entry is in the log."""

    def commit(
        self,
        changes: Sequence[Change],
        *,
        expect: Expect,
        time_ms: int,
        request: RequestMark | None = None,
        guard: Callable[[], None] | None = None,
    ) -> Position:
        """Append all changes, and apply them, in one durable transaction, or nothing.

        Raises ChangedMeanwhile when a revision or an index is not as expected,
        AlreadyExists for a revision 1 whose resource exists, and NotPrimary when this
        region does not reign in `expect.epoch`. The request mark goes to the last
        entry. Returns the position of the last entry.
        """


class CounterStore(Protocol):
    """What the region counts for itself, apart from log and state."""

    def taken(self, version: str) -> Count | None:
        """How many invocations were taken for a version, with the region's MAC."""

    def advance(self, version: str, seen: int, count: Count) -> bool:
        """Count up from `seen`, durably; False: it is not `seen` any more."""

    def generation(self) -> int:
        """How often `advance` counted; an older copy of the counters says less."""

    def lost_ms(self) -> int:
        """When counts were found missing; 0: never."""

    def survey(self, see: Callable[[Sequence[tuple[str, Count]]], object]) -> Reckoning:
        """Show all counts as they are at one moment; returns how they add up."""

    def former(self) -> list[tuple[str, int, bytes]]:
        """What an earlier release counted, with its MACs."""

    def settle(
        self,
        reckoning: Reckoning,
        *,
        seen: int,
        lost_ms: int = 0,
        drop: Sequence[str] = (),
        add: Sequence[tuple[str, Count]] = (),
    ) -> bool:
        """Go on from a reckoning made at generation `seen`; False: it has moved on."""


class Witness(Protocol):
    """The region's other partitions, for what is not left to this one alone."""

    def self_test(self, material: Material) -> bool:
        """Have a healthy sibling open and use it; False: no sibling answers.

        Raises WrappedKeyInvalid when a sibling could not use it.
        """

    def holds_import(self, partition: str, import_id: str) -> bool:
        """Tell whether that partition has the wrapping key. Raises Unavailable."""

    def finish_import(
        self,
        partition: str,
        import_id: str,
        version: str,
        blob: Blob,
        *,
        regions: Sequence[str],
    ) -> Generated:
        """Have that partition do what `Hsm.finish_import` does, once."""


class Durability(Protocol):
    """Waiting for other regions."""

    def watermarks(self) -> Mapping[str, Position]:
        """The durable watermark of each extended region, as last acknowledged."""


class Dates(Protocol):
    """Who knows whether a date has really come, whatever the wall clock says."""

    def require_past(self, date_ms: int) -> None:
        """Raise ClockUntrusted unless a clock that can be trusted is past it."""


class Clock(Protocol):
    """Wall-clock time."""

    def __call__(self) -> int:
        """Unix time in milliseconds."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """How waiting for other regions ended."""

    reached: bool
    behind: tuple[str, ...] = ()
    """The regions that have not acknowledged it."""


@dataclass(frozen=True, slots=True)
class FollowerState:
    """How far one extended region has come, as the pool manager knows it."""

    region: str
    connected: bool
    watermark: str
    """Position, as last acknowledged; empty: never since that process started."""
    lag_entries: int
    lag_ms: int
    last_sync_ms: int
    """When it last had everything; 0: not since that process started."""
    migration_percent: int


@dataclass(frozen=True, slots=True)
class ReplicationState:
    """What the pool manager knows about the links of this region."""

    primary_reachable: bool
    """True in the primary itself."""
    followers: tuple[FollowerState, ...] = ()
    """On the primary: all extended regions. On an extended region: itself."""
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartitionState:
    """How one partition of this region is."""

    name: str
    serving: bool
    problem: str = ""
    position: str = ""
    open_keys: int = 0


@dataclass(frozen=True, slots=True)
class RemovalOrder:
    """An administrator's signed order to remove a region."""

    region: str
    """The bare id."""
    force: bool
    time_ms: int
    certificate: str
    """PEM."""
    signature: bytes = field(repr=False)
