"""The state: what the log adds up to, one row for each resource.

A row is only believed where the log agrees: it must carry the record of the resource's
last entry, and be the revision that follows the entry before. So a row that was edited,
set back, taken from another place, or stated again by a later entry is noticed, even
where its MAC is a good one. Of what lies before the log's base, the MAC alone speaks.
"""

from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    RowMapping,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
    update,
)

from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.key_records import KeyRecord, TombstoneRecord
from hsmvault.model.log import Kind
from hsmvault.model.records import read
from hsmvault.model.stored import Row as Found
from hsmvault.model.stored import StoredRecord
from hsmvault.store import counts
from hsmvault.store import log as history
from hsmvault.store.schema import (
    USUAL,
    log,
    parent_of,
    place_of,
    row_of,
    state,
    wrapped,
)

_entry = log.alias("entry")
_later = log.alias("later")
_former = log.alias("former")
_ending = log.alias("ending")
_RECORD: Final = (
    state.c.place,
    state.c.kind,
    state.c.resource,
    state.c.revision,
    state.c.record,
    state.c.mac,
    state.c.idx,
    state.c.parent,
)
_ENDED_AT: Final = (
    select(func.max(_ending.c.idx))
    .where(
        _ending.c.resource == func.coalesce(state.c.parent, state.c.resource),
        _ending.c.kind == str(Kind.TOMBSTONE),
    )
    .correlate(state)
    .scalar_subquery()
)
ROWS: Final = select(
    *_RECORD,
    and_(
        _entry.c.kind == state.c.kind,
        _entry.c.resource == state.c.resource,
        _entry.c.record == state.c.record,
    ).label("agrees"),
    select(func.max(_later.c.idx))
    .where(_later.c.resource == state.c.resource, _later.c.kind == state.c.kind)
    .scalar_subquery()
    .label("last"),
    _ENDED_AT.label("ended"),
    select(_former.c.record)
    .where(
        _former.c.resource == state.c.resource,
        _former.c.kind == state.c.kind,
        _former.c.idx < state.c.idx,
        # A name that lives again begins anew.
        _former.c.idx > func.coalesce(_ENDED_AT, 0),
    )
    .order_by(_former.c.idx.desc())
    .limit(1)
    .scalar_subquery()
    .label("former"),
).select_from(state.outerjoin(_entry, _entry.c.idx == state.c.idx))
"""State rows, each with what the log says of it."""

FILED: Final = ("version", "life", "due")
"""Columns that queries go by and no MAC is over. `parent` is one, too; each read
compares it."""

_KINDS: Final = frozenset(Kind)
_ONE: Final = ROWS.where(state.c.place == bindparam("at"))
_LAST: Final = (
    select(log.c.idx, log.c.kind)
    .where(log.c.resource == bindparam("at"))
    .order_by(log.c.idx.desc())
    .limit(1)
)
_ENDED: Final = select(func.max(log.c.idx)).where(
    log.c.resource == bindparam("at"), log.c.kind == str(Kind.TOMBSTONE)
)
_TOMBSTONES: Final = select(log.c.record).where(
    log.c.resource == bindparam("at"), log.c.kind == str(Kind.TOMBSTONE)
)
_PLACE: Final = state.c.place == bindparam("at")
_UPDATE: Final = (
    update(state)
    .where(_PLACE)
    .values(
        {
            column.name: bindparam(f"new_{column.name}")
            for column in state.c
            if column.name != "place"
        }
    )
)


def unusual_keys(connection: Connection) -> dict[str, int]:
    """Return how many keys there are in each state but the usual one."""
    keys = state.c.kind == str(Kind.KEY)
    unusual = select(state.c.life, func.count()).where(keys, state.c.life.is_not(None))
    found = connection.execute(unusual.group_by(state.c.life)).all()
    return {str(life): int(number) for life, number in found}


def peek(connection: Connection, place: str) -> StoredRecord | None:
    """Return what is kept at a place. That it is None is not yet believed: `find`."""
    row = connection.execute(_ONE, {"at": place}).first()
    return None if row is None else checked(connection, row)


def find(connection: Connection, resource: str) -> StoredRecord | None:
    """Return a resource's record, or None where the log says, too, that it is not.

    Needs a connection that sees one moment. Raises IntegrityFailure.
    """
    found = peek(connection, resource)
    if found is not None:
        return found
    last = connection.execute(_LAST, {"at": resource}).first()
    if last is None or last.kind == Kind.TOMBSTONE:
        return None
    parent = parent_of(Kind(last.kind), resource)
    if parent is not None:
        ended = connection.execute(_ENDED, {"at": parent}).scalar()
        if ended is not None and ended > last.idx:
            return None
    raise IntegrityFailure(
        "{resource} is in the log, at {index}, but its state is gone",
        resource=resource,
        index=last.idx,
    )


def page(
    *, kind: Kind, after: str, prefix: str, limit: int, life: str | None
) -> Select[*tuple[Any, ...]]:
    """Select rows of one kind, ordered by place."""
    rows = ROWS.where(state.c.kind == str(kind))
    # Of two lower bounds only one can matter.
    if after and after >= prefix:
        rows = rows.where(state.c.place > after)
    elif prefix:
        rows = rows.where(state.c.place >= prefix)
    if prefix:
        rows = rows.where(state.c.place < past(prefix))
    if life is not None:
        usual = life in USUAL
        rows = rows.where(state.c.life.is_(None) if usual else state.c.life == life)
    return rows.order_by(state.c.place).limit(limit)


def due(
    *, kind: Kind, before_ms: int, after: tuple[int, str], limit: int, life: str
) -> Select[*tuple[Any, ...]]:
    """Select rows whose time has come, the longest due first."""
    usual = life in USUAL
    return (
        ROWS.add_columns(state.c.due)
        .where(
            state.c.kind == str(kind),
            state.c.due <= before_ms,
            tuple_(state.c.due, state.c.place) > tuple_(*map(literal, after)),
            state.c.life.is_(None) if usual else state.c.life == life,
        )
        .order_by(state.c.due, state.c.place)
        .limit(limit)
    )


def past(prefix: str) -> str:
    """Return the least text that is greater than all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def checked(connection: Connection, row: Row[*tuple[Any, ...]]) -> StoredRecord:
    """Take a row that the log agrees with, or raise IntegrityFailure."""
    r = row._mapping  # noqa: SLF001  SQLAlchemy's public name for it
    stored = _laid_out(r)
    kind, resource, index = stored.kind, stored.resource, stored.index
    entombed = kind is Kind.TOMBSTONE
    # A tombstone is believed by its own entry, since its name may live again.
    last = index if entombed and r["agrees"] is not None else r["last"]
    if last is None or (entombed and r["agrees"] is None):
        base = history.base(connection)
        sound = base is not None and index <= base.position.index
    else:
        sound = bool(r["agrees"]) and last == index
    if not entombed:
        sound = sound and (r["ended"] is None or r["ended"] < index)
        sound = sound and r["parent"] == parent_of(kind, resource)
        sound = sound and _goes_on(connection, stored, r["former"])
    if kind is Kind.KEY and r["ended"] is not None:
        sound = sound and not _buried(connection, stored)
    if not sound or r["place"] != place_of(stored):
        raise IntegrityFailure(
            "the state of {resource} is not what the log says; it was changed in the "
            "store itself",
            resource=resource,
        )
    return stored


def found(connection: Connection, row: Row[*tuple[Any, ...]]) -> Found:
    """Tell what a row holds, or why it is not believed: the others are, all the same.

    What is filed wrongly is told where the row brings the columns that queries go by.
    """
    r = row._mapping  # noqa: SLF001  SQLAlchemy's public name for it
    place = str(r["place"])
    try:
        stored = checked(connection, row)
        wanted = row_of(stored, index=stored.index)
    except IntegrityFailure as error:
        return Found(place, None, str(error))
    misfiled = [name for name in FILED if name in r and r[name] != wanted[name]]
    return Found(place, stored, misfiled=tuple(misfiled))


def _laid_out(r: RowMapping) -> StoredRecord:
    """Take a row's columns for what they should be: SQLite keeps anything in any."""
    types = (str, int, bytes, bytes, int)
    values = [r[name] for name in ("resource", "revision", "record", "mac", "idx")]
    if r["kind"] not in _KINDS or [type(value) for value in values] != [*types]:
        raise IntegrityFailure(
            "the state at {place} does not read; it was changed in the store itself",
            place=r["place"],
        )
    return StoredRecord(Kind(r["kind"]), *values)


def _goes_on(
    connection: Connection, stored: StoredRecord, former: bytes | None
) -> bool:
    """Tell whether it is the revision after the one that the log has before it."""
    if former is not None:
        revision: int = getattr(read(stored.kind, former), "revision")  # noqa: B009
        return stored.revision == revision + 1
    # What came before it may lie before the log's base.
    return stored.revision == 1 or history.base(connection) is not None


def _buried(connection: Connection, stored: StoredRecord) -> bool:
    """Tell whether this very key was purged, and only its name may live again."""
    key = KeyRecord.from_bytes(stored.record)
    graves = connection.execute(_TOMBSTONES, {"at": stored.resource}).scalars()
    return any(
        TombstoneRecord.from_bytes(raw).incarnation == key.incarnation for raw in graves
    )


def put(
    connection: Connection,
    stored: StoredRecord,
    *,
    index: int,
    held: StoredRecord | None,
) -> bool:
    """Let an entry take effect; True: wrapped keys or records were deleted by it."""
    row = row_of(stored, index=index)
    if stored.kind is Kind.TOMBSTONE:
        _bury(connection, TombstoneRecord.from_bytes(stored.record), held)
        held = None
    if held is None:
        connection.execute(insert(state), row)
        if stored.kind is Kind.KEY:
            counts.added(connection)
    else:
        values = {
            f"new_{name}": value for name, value in row.items() if name != "place"
        }
        connection.execute(_UPDATE, values | {"at": row["place"]})
    return stored.kind is Kind.TOMBSTONE


def versions_of(connection: Connection, resource: str) -> set[str]:
    """Return the ids of the versions that a key has in the state."""
    found = connection.execute(select(state.c.version).where(_below(resource)))
    return {version for (version,) in found.all() if version is not None}


def count_versions(connection: Connection, resource: str) -> int:
    """Return how many versions a key has in the state: a seek, and no rows read."""
    query = select(func.count()).where(_below(resource))
    return connection.execute(query).scalar_one()


def _below(resource: str) -> ColumnElement[bool]:
    prefix = f"{resource}/versions/"
    return and_(state.c.place >= prefix, state.c.place < past(prefix))


def _bury(
    connection: Connection, tombstone: TombstoneRecord, held: StoredRecord | None
) -> None:
    """Delete the key's row, its versions' rows, and all that is wrapped of them."""
    if (
        held is None
        or held.kind is not Kind.KEY
        or KeyRecord.from_bytes(held.record).incarnation != tombstone.incarnation
    ):
        raise IntegrityFailure(
            "{resource} is not the key that its tombstone names",
            resource=tombstone.resource,
        )
    resource = tombstone.resource
    gone = versions_of(connection, resource) | set(tombstone.versions)
    for version in sorted(gone):
        connection.execute(delete(wrapped).where(wrapped.c.version == version))
    connection.execute(
        delete(state).where(or_(state.c.place == resource, _below(resource)))
    )
    counts.buried(connection)
