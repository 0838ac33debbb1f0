"""Records, changes and whole small histories, as the vault would write them."""

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.algorithms import Curve, KeySpec, KeyType, Operation
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState, RegionState, VersionState
from hsmvault.model.log import GENESIS, Entry, Epoch, Kind, Position, RequestMark, chain
from hsmvault.model.record import Record
from hsmvault.model.stored import (
    KWP,
    StoredRecord,
    WrappedKey,
    pair_key_name,
    region_key_name,
)
from hsmvault.model.vault_records import EpochRecord, RegionRecord, VaultRecord
from hsmvault.store.store import Store
from hsmvault.vault.ports import Change, Expect

NOW: Final = 1_790_000_000_000
FIRST: Final = Epoch(1, "north")
VAULT_ID: Final = "5" * 32
P256: Final = KeySpec(KeyType.EC, 256, Curve.P256)

KINDS: Final[dict[type[Record], Kind]] = {
    EpochRecord: Kind.EPOCH,
    VaultRecord: Kind.VAULT,
    RegionRecord: Kind.REGION,
    AssignmentRecord: Kind.ROLE_ASSIGNMENT,
    KeyRecord: Kind.KEY,
    VersionRecord: Kind.KEY_VERSION,
    TombstoneRecord: Kind.TOMBSTONE,
}


def mac_of(statement: bytes, region: str = "north") -> bytes:
    """Stand in for the region's integrity key: the store never checks it."""
    return hashlib.sha256(region.encode() + statement).digest()


def stored(record: Record, *, region: str = "north") -> StoredRecord:
    raw = StoredRecord(
        KINDS[type(record)],
        record.resource,
        record.revision,  # type: ignore[attr-defined]
        record.to_bytes(),
    )
    return replace(raw, mac=mac_of(raw.statement(VAULT_ID), region))


def remade(entries: Sequence[Entry], region: str) -> list[StoredRecord]:
    """Give the state of each entry, under another region's MAC."""
    out = []
    for entry in entries:
        (kind,) = (k for k, v in KINDS.items() if v is entry.kind)
        out.append(stored(kind.from_bytes(entry.record), region=region))
    return out


def change(record: Record, *wrapped: WrappedKey) -> Change:
    rows = tuple((key, mac_of(key.statement(VAULT_ID))) for key in wrapped)
    return Change(stored(record), rows)


def new_id() -> str:
    return secrets.token_hex(16)


def epoch(number: int, region: str, index: int, chained: bytes) -> EpochRecord:
    return EpochRecord(number, region, 1, index, chained)


def region_record(name: str, *, revision: int = 1) -> RegionRecord:
    return RegionRecord(
        f"regions/{name}",
        revision,
        RegionState.SUCCEEDED,
        primary=name == "north",
        zone="eu",
        endpoint="127.0.0.1:1",
        partition_endpoints=(),
        private_endpoint="127.0.0.1:2",
        partitions=(),
        certificate="",
        create_ms=NOW,
        update_ms=NOW,
    )


def assignment(number: int, *, revision: int = 1) -> AssignmentRecord:
    return AssignmentRecord(
        f"roleAssignments/a{number}", revision, "CN=alice", "r", "/", NOW, "CN=alice"
    )


def genesis() -> list[Change]:
    return [
        change(epoch(1, "north", 0, GENESIS)),
        change(VaultRecord(VAULT_ID, 1, NOW, page_key=bytes(32))),
        change(region_record("north")),
        change(assignment(1)),
    ]


def key(name: str, *, revision: int = 1, incarnation: str = "") -> KeyRecord:
    return KeyRecord(
        f"keys/{name}",
        incarnation or new_id(),
        revision,
        P256,
        frozenset({Operation.SIGN}),
        NOW,
        NOW,
        "",
    )


def version(of: KeyRecord, *, revision: int = 1, version_id: str = "") -> VersionRecord:
    return VersionRecord(
        of.name,
        of.incarnation,
        version_id or new_id(),
        revision,
        P256,
        b"public",
        ("north",),
        NOW,
        NOW,
    )


def sealed(of: VersionRecord, region: str = "north") -> WrappedKey:
    by = (
        region_key_name(region) if region == "north" else pair_key_name("north", region)
    )
    return WrappedKey(of.version, region, by, KWP, f"{of.version} {region}".encode())


def at_rest(of: WrappedKey) -> tuple[WrappedKey, bytes]:
    """What a region makes of what came for it: wrapped by its own region key."""
    own = replace(of, wrapping_key=region_key_name(of.region))
    return own, mac_of(own.statement(VAULT_ID), of.region)


def mark(request_id: str = "r1") -> RequestMark:
    return RequestMark("CN=alice", "/hsmvault.v1.X/Y", request_id, b"d" * 32, b"answer")


@dataclass
class Author:
    """Writes to a primary's store as its vault would."""

    store: Store
    expect: Expect = field(default_factory=lambda: Expect(FIRST))

    def commit(self, *changes: Change, request: RequestMark | None = None) -> Position:
        return self.store.commit(
            changes, expect=self.expect, time_ms=NOW, request=request
        )

    def create(self, name: str, *regions: str) -> tuple[KeyRecord, VersionRecord]:
        made = key(name)
        first = version(made)
        rows = [sealed(first, region) for region in regions or ("north",)]
        self.commit(change(made), change(first, *rows))
        return made, first

    def update(self, old: KeyRecord, **fields: object) -> KeyRecord:
        fresh = replace(old, revision=old.revision + 1, **fields)  # type: ignore[arg-type]
        self.commit(change(fresh))
        return fresh

    def delete(self, old: KeyRecord) -> KeyRecord:
        return self.update(old, state=KeyState.DELETED, delete_ms=NOW)

    def purge(self, old: KeyRecord, *versions: VersionRecord) -> TombstoneRecord:
        ids = tuple(one.version for one in versions)
        end = TombstoneRecord(old.name, old.incarnation, old.revision + 1, ids, NOW)
        self.commit(change(end))
        return end


def pending(of: VersionRecord) -> VersionRecord:
    return replace(of, state=VersionState.PENDING)


def north(path: Path) -> Store:
    """Open a store of the primary's in a file, with the first entries in it."""
    store = Store.open(f"sqlite:///{path}", region="north")
    store.found(genesis(), time_ms=NOW, epoch=FIRST)
    return store


def followed(source: Store, target: Store, *, limit: int = 1000) -> None:
    """Bring `target` to where `source` is, in batches, wrapped keys included."""
    for entries in batches(source, target, limit):
        raws = [
            VersionRecord.from_bytes(e.record)
            for e in entries
            if e.kind is Kind.KEY_VERSION
        ]
        found = source.wrapped_for([raw.version for raw in raws], target.region)
        target.apply(
            entries,
            states=remade(entries, target.region),
            wrapped=[at_rest(row) for row, _ in found.values()],
        )


def batches(source: Store, target: Store, limit: int) -> Iterator[list[Entry]]:
    while True:
        head = target.head()
        entries = source.entries(head.position.index if head else 0, limit=limit)
        if not entries:
            return
        yield entries


def entry_after(
    previous: Entry, record: Record, *, reign: Epoch | None = None, skip: int = 0
) -> Entry:
    """Write an entry by hand, as another region might."""
    bare = Entry(
        Position(reign or previous.position.epoch, previous.position.index + 1 + skip),
        NOW,
        KINDS[type(record)],
        record.resource,
        record.to_bytes(),
    )
    return replace(bare, chain=chain(previous.chain, bare))
