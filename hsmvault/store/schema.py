"""The tables, the same on SQLite and on PostgreSQL, and where a record is kept."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)

from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.log import Kind
from hsmvault.model.record import Record
from hsmvault.model.records import read
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import EpochRecord, RegionRecord

REVISION: Final = "0002"
"""The newest migration. A test holds it equal to what Alembic finds in migrations/."""

metadata: Final = MetaData()

# Names are compared and ordered by their bytes, also where a database would sort by
# the rules of a language.
_NAME: Final = String().with_variant(String(collation="C"), "postgresql")

meta: Final = Table(
    "meta",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("value", _NAME, nullable=False),
)
"""What is known of the store itself: whose it is, and where its log begins."""

log: Final = Table(
    "log",
    metadata,
    # Given, never counted by the database: gaps would be two histories.
    Column("idx", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("region", _NAME, nullable=False),
    Column("time_ms", BigInteger, nullable=False),
    Column("kind", _NAME, nullable=False),
    Column("resource", _NAME, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("chain", LargeBinary, nullable=False),
    # The last entry of a resource, and of a kind, are each one seek.
    Index("log_resource", "resource", "kind", "idx"),
    Index("log_kind", "kind", "idx"),
)

state: Final = Table(
    "state",
    metadata,
    # `place_of` says what it is: the resource, but for tombstones.
    Column("place", _NAME, primary_key=True),
    Column("kind", _NAME, nullable=False),
    Column("resource", _NAME, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("idx", BigInteger, nullable=False),
    # Derived from the record, for queries alone.
    Column("parent", _NAME),  # of a version: its key
    Column("version", _NAME),  # of a version: its id
    Column("life", _NAME),  # the record's own state, unless it is the usual one
    Column("due", BigInteger),  # when something becomes of it by itself
    Index("state_kind", "kind", "place"),
    Index("state_version", "version", unique=True),
)
Index(
    "state_life",
    state.c.kind,
    state.c.life,
    state.c.place,
    # Nearly every row is in the usual state, and stays out of this index.
    sqlite_where=state.c.life.is_not(None),
    postgresql_where=state.c.life.is_not(None),
)
Index(
    "state_due",
    state.c.kind,
    state.c.due,
    state.c.place,
    # Few records wait for a date, and nobody reads the others to find them.
    sqlite_where=state.c.due.is_not(None),
    postgresql_where=state.c.due.is_not(None),
)

wrapped: Final = Table(
    "wrapped",
    metadata,
    Column("version", _NAME, primary_key=True),
    Column("region", _NAME, primary_key=True),
    Column("wrapping_key", _NAME, nullable=False),
    Column("mechanism", _NAME, nullable=False),
    Column("wrapped", LargeBinary, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Index("wrapped_region", "region"),
)

requests: Final = Table(
    "requests",
    metadata,
    Column("principal", _NAME, primary_key=True),
    Column("method", _NAME, primary_key=True),
    Column("request_id", _NAME, primary_key=True),
    # The entry that carries this mark. Entries are read by joining it back, so a mark
    # is kept once, and under the chain.
    Column("idx", BigInteger, nullable=False, unique=True),
    Column("digest", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
)

staged: Final = Table(
    "staged",
    metadata,
    Column("snapshot", _NAME, primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("chunk", LargeBinary, nullable=False),
)
"""Chunks of a snapshot on its way in: verified by its manifest, not yet in force."""

USUAL: Final = frozenset({"ACTIVE", "SUCCEEDED"})
"""States that are kept as NULL in `life`."""

_TOMBSTONES: Final = "tombstones/"


def tombstone_place(incarnation: str) -> str:
    """Say where the tombstone of one incarnation is kept, for ever."""
    return f"{_TOMBSTONES}{incarnation}"


def place_of(stored: StoredRecord) -> str:
    """Say where a record is kept: under its resource.

    A tombstone is kept under its incarnation, so that its name is free again and no
    later key of that name can push it out.
    """
    if stored.kind is not Kind.TOMBSTONE:
        return stored.resource
    record = TombstoneRecord.from_bytes(stored.record)
    return tombstone_place(record.incarnation)


def life_of(record: Record) -> str | None:
    """Return the record's own state for the index, None for the usual one."""
    if not isinstance(record, KeyRecord | VersionRecord | RegionRecord):
        return None
    return None if record.state in USUAL else str(record.state)


def parent_of(kind: Kind, resource: str) -> str | None:
    """Return the resource of the key that a version belongs to."""
    if kind is not Kind.KEY_VERSION:
        return None
    return resource.partition("/versions/")[0]


def opened(stored: StoredRecord) -> Record:
    """Read the record, and refuse it unless it is what its row says that it is."""
    record = read(stored.kind, stored.record)
    said = record.resource, getattr(record, "revision", None)
    if said != (stored.resource, stored.revision):
        raise IntegrityFailure(
            "the record kept as {resource}, revision {revision}, is another's",
            resource=stored.resource,
            revision=stored.revision,
        )
    return record


def row_of(stored: StoredRecord, *, index: int) -> dict[str, object]:
    """Lay a record out as a row of `state`, its derived columns from its bytes."""
    record = opened(stored)
    return {
        "place": place_of(stored),
        "kind": str(stored.kind),
        "resource": stored.resource,
        "revision": stored.revision,
        "record": stored.record,
        "mac": stored.mac,
        "idx": index,
        "parent": parent_of(stored.kind, stored.resource),
        "version": record.version if isinstance(record, VersionRecord) else None,
        "life": life_of(record),
        "due": record.due_ms or None,
    }


def fork_of(record: Record) -> EpochRecord:
    """Take a record as an EPOCH's, or refuse it."""
    if not isinstance(record, EpochRecord):
        raise IntegrityFailure("a record in the fork table is not an epoch's")
    return record
