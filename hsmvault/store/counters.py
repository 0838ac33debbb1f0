"""What a region counts for itself: in no log, in no other region, never set back.

Apart from the store, in a file beside it or in tables that processes do not follow, so
that counting does not make anybody look for changes.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    Row,
    String,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
    update,
)

from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.invocations import Count, Reckoning
from hsmvault.store.database import Database, open_counting

metadata: Final = MetaData()

_counts: Final = Table(
    "invocations",
    metadata,
    Column("version", String, primary_key=True),
    Column("taken", BigInteger, nullable=False),
    Column("times", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""How many invocations were taken for a key version, and the region's MAC over it."""

_former: Final = Table(
    "counters",
    metadata,
    Column("version", String, primary_key=True),
    Column("taken", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""The same as an earlier release kept it. Taken over once, and empty from then on."""

_marks: Final = Table(
    "counter_marks",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

_missing: Final = Table(
    "counter_missing",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)

_GENERATION: Final = "generation"
"""Grows by one with each block that is taken."""
_PAGE: Final = 500
_Rows = Sequence[tuple[str, Count]]
_LOST: Final = "lost_ms"
"""When it was found that counts are missing."""


class Counters:
    """The counters of one region, shared by its processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, url: str, *, home: Path | None = None) -> Self:
        """Open what belongs to the store of this URL, made if it is not there yet."""
        database = open_counting(url, home=home)
        with database.reading() as connection:
            known = set(inspect(connection).get_table_names())
        if not known >= metadata.tables.keys():
            with database.writing() as connection:
                metadata.create_all(connection)
        return cls(database)

    def close(self) -> None:
        self._database.close()

    def taken(self, version: str) -> Count | None:
        """How many were taken for a version, with its MAC, which nobody checked yet."""
        query = select(_counts).where(_counts.c.version == version)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _count(row)

    def advance(self, version: str, seen: int, count: Count) -> bool:
        """Count up from `seen`, durably; False: another process did, and nothing is."""
        with self._database.writing() as connection:
            present = select(_counts.c.taken).where(_counts.c.version == version)
            found = connection.execute(present).scalar()
            if (found or 0) != seen:
                return False
            if found is None:
                connection.execute(insert(_counts), _row(version, count))
            else:
                connection.execute(
                    update(_counts)
                    .where(_counts.c.version == version)
                    .values(_row(version, count))
                )
            self._set(connection, _GENERATION, self._get(connection, _GENERATION) + 1)
        return True

    def generation(self) -> int:
        """How often `advance` counted, since the region was born."""
        with self._database.reading() as connection:
            return self._get(connection, _GENERATION)

    def lost_ms(self) -> int:
        """When counts were last found missing; 0: never."""
        with self._database.reading() as connection:
            return self._get(connection, _LOST)

    def survey(self, see: Callable[[_Rows], object]) -> Reckoning:
        """Show all counts as they are at one moment, in pages; and how they add up."""
        missing = select(_missing.c.value, _missing.c.mac)
        with self._database.snapshot() as connection:
            generation = self._get(connection, _GENERATION)
            kept = connection.execute(missing).first()
            rows = connection.execution_options(yield_per=_PAGE).execute(
                select(_counts)
            )
            with closing(rows):
                for page in rows.partitions():
                    see([(row.version, _count(row)) for row in page])
        if kept is None or [type(value) for value in kept] != [int, bytes]:
            return Reckoning(generation, 0, b"")
        return Reckoning(generation, *kept)

    def former(self) -> list[tuple[str, int, bytes]]:
        """What an earlier release counted, and nobody took over yet."""
        with self._database.reading() as connection:
            return [(v, t, m) for v, t, m in connection.execute(select(_former)).all()]

    def settle(
        self,
        reckoning: Reckoning,
        *,
        seen: int,
        lost_ms: int = 0,
        drop: Sequence[str] = (),
        add: _Rows = (),
    ) -> bool:
        """Go on from what was reckoned at generation `seen`; False: it has moved on.

        `lost_ms`: counts are missing, from then on. What was former is taken over.
        """
        with self._database.writing() as connection:
            if self._get(connection, _GENERATION) != seen:
                return False
            for version in drop:
                connection.execute(delete(_counts).where(_counts.c.version == version))
            for version, count in add:
                connection.execute(insert(_counts), _row(version, count))
            connection.execute(delete(_former))
            connection.execute(delete(_missing))
            kept = {"value": reckoning.missing, "mac": reckoning.mac}
            connection.execute(insert(_missing), {"name": "missing", **kept})
            self._set(connection, _GENERATION, reckoning.generation)
            if lost_ms:
                self._set(connection, _LOST, max(lost_ms, self._get(connection, _LOST)))
        return True

    @staticmethod
    def _get(connection: Connection, name: str) -> int:
        query = select(func.max(_marks.c.value)).where(_marks.c.name == name)
        value = connection.execute(query).scalar() or 0
        if type(value) is not int:
            raise IntegrityFailure("the counters' {name} does not read", name=name)
        return value

    @staticmethod
    def _set(connection: Connection, name: str, value: int) -> None:
        changed = connection.execute(
            update(_marks).where(_marks.c.name == name).values(value=value)
        )
        if not changed.rowcount:
            connection.execute(insert(_marks).values(name=name, value=value))


def _row(version: str, count: Count) -> dict[str, object]:
    return {
        "version": version,
        "taken": count.taken,
        "times": count.times,
        "mac": count.mac,
    }


def _count(row: Row[Any]) -> Count:
    """Take a row for what it should be: SQLite keeps anything in any column."""
    # A version as bytes would be a second row of the same, under the same MAC.
    types = [type(value) for value in (row.version, row.taken, row.times, row.mac)]
    if types != [str, int, int, bytes]:
        return Count(-1, 0, b"")
    return Count(row.taken, row.times, row.mac)
