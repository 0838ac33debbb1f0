"""Wrapped keys: apart from the records, so that they can go while the log stays."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, TypeVar

from sqlalchemy import (
    Connection,
    Row,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    select,
)

from hsmvault.model.log import Kind
from hsmvault.model.stored import WrappedKey
from hsmvault.store.schema import state, wrapped
from hsmvault.store.state import ROWS

T = TypeVar("T")

BATCH: Final = 500
"""Rows per statement: below every database's limit of parameters."""

_HERE: Final = (
    wrapped.c.version == bindparam("of_version"),
    wrapped.c.region == bindparam("of_region"),
)
_ONE: Final = select(wrapped).where(*_HERE)
_DROP: Final = delete(wrapped).where(*_HERE)


def get(
    connection: Connection, version: str, region: str
) -> tuple[WrappedKey, bytes] | None:
    """Return one wrapped key and its MAC."""
    at = {"of_version": version, "of_region": region}
    row = connection.execute(_ONE, at).first()
    return None if row is None else _wrapped(row)


def many(
    connection: Connection, versions: Sequence[str], region: str
) -> dict[str, tuple[WrappedKey, bytes]]:
    """Return what is wrapped of these versions for a region, by version."""
    found: dict[str, tuple[WrappedKey, bytes]] = {}
    for some in batches(versions):
        query = select(wrapped).where(
            wrapped.c.region == region, wrapped.c.version.in_(some)
        )
        for row in connection.execute(query).all():
            found[row.version] = _wrapped(row)
    return found


def put(connection: Connection, rows: Iterable[tuple[WrappedKey, bytes]]) -> int:
    """Keep wrapped keys in place of earlier ones; returns how many.

    A row whose version is unknown, or was purged in the meantime, is left out: it must
    not come back after its tombstone.
    """
    count = 0
    for some in batches(rows):
        known = select(state.c.version).where(
            state.c.version.in_([key.version for key, _ in some])
        )
        alive = {version for (version,) in connection.execute(known).all()}
        # The last of several for one place stands, as if each had replaced the former.
        standing = {
            (key.version, key.region): _row(key, mac)
            for key, mac in some
            if key.version in alive
        }
        if standing:
            drop = [{"of_version": v, "of_region": r} for v, r in standing]
            connection.execute(_DROP, drop)
            connection.execute(insert(wrapped), list(standing.values()))
        count += len(standing)
    return count


def drop(connection: Connection, region: str) -> int:
    """Forget all that is wrapped for a region; returns how many there were."""
    return connection.execute(
        delete(wrapped).where(wrapped.c.region == region)
    ).rowcount


def unsealed(
    region: str, *, own: str, after: str, limit: int
) -> Select[*tuple[Any, ...]]:
    """Select versions that are wrapped for the own region and not yet for `region`."""
    mine, theirs = wrapped.alias("mine"), wrapped.alias("theirs")
    return (
        ROWS.where(
            state.c.kind == str(Kind.KEY_VERSION),
            state.c.place > after,
            exists().where(mine.c.version == state.c.version, mine.c.region == own),
            ~exists().where(
                theirs.c.version == state.c.version, theirs.c.region == region
            ),
        )
        .order_by(state.c.place)
        .limit(limit)
    )


def count(connection: Connection, region: str) -> int:
    """Count what is wrapped for a region."""
    query = select(func.count()).where(wrapped.c.region == region)
    return connection.execute(query).scalar_one()


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """Cut into lists of at most BATCH."""
    rest = iter(items)
    while some := list(islice(rest, BATCH)):
        yield some


def _row(key: WrappedKey, mac: bytes) -> dict[str, object]:
    return {
        "version": key.version,
        "region": key.region,
        "wrapping_key": key.wrapping_key,
        "mechanism": key.mechanism,
        "wrapped": key.wrapped,
        "mac": mac,
    }


def _wrapped(row: Row[*tuple[Any, ...]]) -> tuple[WrappedKey, bytes]:
    version, region, wrapping_key, mechanism, raw, mac = row
    return WrappedKey(version, region, wrapping_key, mechanism, raw), mac
