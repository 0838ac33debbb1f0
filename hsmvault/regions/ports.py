"""What the pool manager's work needs from partitions, officers and other regions.

`local` satisfies Workers and Officers, `store` LogStore, `replication` Peers and
ManagerDuties; mypy checks it in `server`, where they meet. Every method may raise
Unavailable.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hsmvault.model.audit_records import AuditHead
from hsmvault.model.log import Entry, Head, Kind, Position
from hsmvault.model.orders import RemovalOrder, Terms
from hsmvault.model.stored import Row, StoredRecord, WrappedKey
from hsmvault.model.vault_records import EpochRecord
from hsmvault.store.lines import RequestAt, SnapshotItem
from hsmvault.vault.ports import Material, ReplicationState, Store
from hsmvault.vault.upkeep import Chore


@dataclass(frozen=True, slots=True)
class Arrived:
    """A wrapped key as it came from another region, with what its record says."""

    material: Material
    """`wrapped` is under the pair key; `mac` is empty."""


class Workers(Protocol):
    """The healthy partitions of this region.

    Work is spread over them, and retried on a sibling when one fails.
    """

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        """MAC each statement with the region's integrity key."""

    def rewrap(self, arrived: Sequence[Arrived]) -> list[tuple[WrappedKey, bytes]]:
        """Open under the pair key, wrap under the region key, and MAC; in order."""

    def seal(
        self, materials: Sequence[Material], region: str
    ) -> list[tuple[WrappedKey, bytes]]:
        """Wrap existing versions for another region, and MAC; in order."""

    def sign(self, statement: bytes) -> tuple[str, bytes]:
        """Sign with an identity key: the partition's name and r||s, 64 bytes."""

    def pair_keys(self, region: str) -> Mapping[str, bool]:
        """Which partitions hold both pair keys with `region`; all must answer."""

    def drop_pair_keys(self, region: str) -> None:
        """Destroy the pair keys with `region` in every partition; all must answer."""

    def write_anchor(self, head: Head) -> None:
        """Have every healthy partition remember the head."""

    def execute(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        via_region: str,
        proof: bytes = b"",
    ) -> "Executed":
        """Run a public RPC as `principal`: by their own `proof`, a token.

        Where it is empty, on the word of `via_region`.
        """

    def upkeep(self, chore: Chore, name: str, *, incarnation: str) -> Position:
        """Do a chore to a key as the vault itself, where it is due, or raise NotDue."""


@dataclass(frozen=True, slots=True)
class Executed:
    """How a forwarded call ended: a response, or a serialised google.rpc.Status."""

    response: bytes
    status: bytes
    position: str
    """What the answering region had reached; empty when it failed."""


class AuditTrail(Protocol):
    """The trail of this process: `audit` satisfies it. Raises AuditUnavailable."""

    def require(self) -> None:
        """Raise unless records could be written a moment ago; ask before a change."""

    def note(self, event: str, resource: str = "", **facts: object) -> None:
        """Record what was done without a caller. No secrets, and no bytes.

        `event`: `subject.happened`; `facts`: texts, numbers, and lists of them.
        """


class Officers(Protocol):
    """The ceremony processes of this region, one per partition; there may be none."""

    def present(self) -> bool:
        """Tell whether officers can work now (a directory, or an attached one)."""

    def ask(self, partition: str, task: Mapping[str, object]) -> Mapping[str, object]:
        """Have one partition's officer do a task of hsm/officer.py.

        One officer process per partition lives from the first `ask` to `dismiss`: an
        offer's transport key dies with it. Raises what the task raised.
        """

    def dismiss(self) -> None:
        """End the officer processes."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a region said of itself when it linked."""

    vault_id: str
    head: Head | None
    """The end of its log; None: its store is empty."""
    release: str


class Peers(Protocol):
    """The extended regions that are linked to this primary."""

    def connected(self, region: str) -> bool: ...

    def greeting(self, region: str) -> Greeting | None:
        """What a linked region said of itself; None while it is not linked."""

    def watermark(self, region: str) -> Position | None:
        """What the region last acknowledged as durable."""

    def times(self) -> Sequence[int]:
        """What the clocks of the linked regions said last, in Unix ms."""

    def officers(self, region: str) -> Officers:
        """The officers of a linked region, reached over its link."""

    def order_purge(self, region: str, order: Mapping[str, object]) -> None:
        """Hand a region the signed order to purge itself; returns once it has."""

    def trust_changed(self) -> None:
        """The set of regions changed: take certificates from the state again."""


class LogStore(Store, Protocol):
    """The store as replication and the work on regions need it."""

    def base(self) -> Head | None:
        """Where the log starts: None at genesis, else the head of a snapshot."""

    def head_at(self, index: int) -> Head | None:
        """The head as it was at `index`; None beyond the end."""

    def lineage(self) -> list[EpochRecord]:
        """The fork table, oldest first."""

    def verify_chain(
        self, after: Head | None = None, *, limit: int = 10_000
    ) -> Head | None:
        """Verify some entries after `after`; the last head verified."""

    def states(
        self,
        kind: Kind,
        *,
        after: str = "",
        prefix: str = "",
        limit: int = 1000,
        state: str | None = None,
    ) -> list[StoredRecord]:
        """State of one kind, ordered by resource; `state`: only records in it."""

    def due(
        self,
        kind: Kind,
        *,
        before_ms: int,
        state: str,
        after: tuple[int, str] = (0, ""),
        limit: int = 100,
    ) -> list[tuple[int, Row]]:
        """State of one kind whose `due_ms` has come by the index, and when that was."""

    def rows(self, *, after: str = "", limit: int = 100) -> list[Row]:
        """Rows of all kinds, ordered by place, each with what is wrong about it."""

    def file_again(self, stored: StoredRecord) -> bool:
        """Derive the columns that queries go by from a checked record."""

    def gone(self, after: int, upto: int) -> list[str]:
        """Resources whose state is missing, though the log's entries there made it."""

    def apply(
        self,
        entries: Sequence[Entry],
        *,
        states: Sequence[StoredRecord],
        wrapped: Iterable[tuple[WrappedKey, bytes]] = (),
        expected_head: Head | None = None,
    ) -> Head:
        """Append what another region wrote, in one durable transaction."""

    def put_wrapped(self, rows: Iterable[tuple[WrappedKey, bytes]]) -> int: ...

    def drop_wrapped(self, region: str) -> int: ...

    def unsealed(
        self, region: str, *, after: str = "", limit: int = 100
    ) -> list[StoredRecord]:
        """Versions that are wrapped here and not yet for `region`."""

    def wrapped_for(
        self, versions: Sequence[str], region: str
    ) -> dict[str, tuple[WrappedKey, bytes]]: ...

    def count(self, kind: Kind) -> int: ...

    def count_wrapped(self, region: str) -> int: ...

    def export_snapshot(self, region: str) -> Iterator[SnapshotItem]: ...

    def stage_chunk(self, snapshot_id: str, n: int, chunk: bytes) -> None: ...

    def staged(self, snapshot_id: str) -> list[int]: ...

    def staged_chunk(self, snapshot_id: str, n: int) -> bytes | None: ...

    def drop_staged(self) -> None: ...

    def install_snapshot(
        self,
        head: Head,
        *,
        states: Iterable[StoredRecord],
        wrapped: Iterable[tuple[WrappedKey, bytes]],
        requests: Iterable[RequestAt] = (),
        seal: bytes = b"",
    ) -> None: ...


class Purging(Protocol):
    """What the process around does when this region purges itself, in this order."""

    def stop_partitions(self) -> None:
        """Have the partition servers end: nobody may use the tokens any more."""

    def destroy_store(self) -> None:
        """Close the store and delete its files."""

    def purged(self) -> None:
        """The region is gone: leave, with the exit code that says so."""


class ManagerDuties(Protocol):
    """What the pool manager does for partition servers and operators."""

    def append_audit_head(self, head: AuditHead) -> None:
        """Take the signed end of a trail of this region into the log."""

    def replication(self) -> ReplicationState: ...

    def forward(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        proof: bytes = b"",
        timeout: float,
    ) -> Executed:
        """Run a write at the primary on behalf of a caller of this region.

        `proof` is the caller's token, or empty.

        Raises PrimaryUnavailable when the primary cannot be reached, and Unavailable
        when the link broke meanwhile: it may have happened.
        """

    def await_watermark(
        self, position: Position, *, regions: int, timeout: float
    ) -> tuple[bool, list[str]]:
        """Wait until so many regions (-1: all) have it; who is behind at the end."""

    def require_past(self, date_ms: int) -> None:
        """Raise ClockUntrusted unless a clock that can be trusted is past the date."""

    def resume_sweeper(self, operator: str) -> str:
        """Trust the wall clock on an operator's word; what had spoken against it."""

    def add_region(
        self, record: bytes, *, principal: str, terms: Terms
    ) -> tuple[bytes, Position]:
        """Start adding the region of a RegionRecord; the record as logged."""

    def remove_region(
        self, order: RemovalOrder, *, force: bool, principal: str, terms: Terms
    ) -> tuple[bytes, Position]:
        """Start removing a region; its record as logged."""
