"""What a region counts for itself: in no log, in no other region, never set back.

Apart from the store, in a file beside it or in tables that processes do not follow, so
that counting does not make anybody look for changes.
"""

from pathlib import Path
from typing import Final, Self

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    insert,
    inspect,
    select,
    update,
)

from hsmvault.store.database import Database, open_counting

metadata: Final = MetaData()

_counters: Final = Table(
    "counters",
    metadata,
    Column("version", String, primary_key=True),
    Column("taken", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)
"""How many invocations were taken for a key version, and the region's MAC over it."""

_marks: Final = Table(
    "counter_marks",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

_GENERATION: Final = "generation"
"""Grows by one with each block that is taken."""
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

    def taken(self, version: str) -> tuple[int, bytes] | None:
        """How many were taken for a version, with its MAC, which nobody checked yet."""
        query = select(_counters.c.taken, _counters.c.mac).where(
            _counters.c.version == version
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else (int(row[0]), bytes(row[1]))

    def advance(self, version: str, seen: int, taken: int, mac: bytes) -> bool:
        """Count up from `seen`, durably; False: another process did, and nothing is."""
        with self._database.writing() as connection:
            present = select(_counters.c.taken).where(_counters.c.version == version)
            found = connection.execute(present).scalar()
            if (found or 0) != seen:
                return False
            if found is None:
                row = {"version": version, "taken": taken, "mac": mac}
                connection.execute(insert(_counters).values(row))
            else:
                connection.execute(
                    update(_counters)
                    .where(_counters.c.version == version)
                    .values(taken=taken, mac=mac)
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

    def lose(self, *, at_ms: int, generation: int) -> None:
        """Keep that counts are missing, and go on from a generation beyond them."""
        with self._database.writing() as connection:
            self._set(connection, _LOST, max(at_ms, self._get(connection, _LOST)))
            self._set(
                connection,
                _GENERATION,
                max(generation, self._get(connection, _GENERATION)),
            )

    @staticmethod
    def _get(connection: Connection, name: str) -> int:
        query = select(func.max(_marks.c.value)).where(_marks.c.name == name)
        return int(connection.execute(query).scalar() or 0)

    @staticmethod
    def _set(connection: Connection, name: str, value: int) -> None:
        changed = connection.execute(
            update(_marks).where(_marks.c.name == name).values(value=value)
        )
        if not changed.rowcount:
            connection.execute(insert(_marks).values(name=name, value=value))
