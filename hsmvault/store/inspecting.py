"""Looking at every row, whether or not any query would find it, a page at a time.

Queries go by columns that no MAC is over, and what no query finds nobody checks: one
edit there could keep a key from its purge, or a deleted row from ever being missed. So
all rows are read by their places, and the log is asked for rows that are not there.
"""

from typing import Final

from sqlalchemy import bindparam, exc, select, update

from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.log import Kind
from hsmvault.model.stored import Row, StoredRecord
from hsmvault.store import state as records
from hsmvault.store.counting import Counting
from hsmvault.store.schema import log, row_of, state

_PLACES: Final = (
    select(state.c.place)
    .where(state.c.place > bindparam("after"))
    .order_by(state.c.place)
    .limit(bindparam("most"))
)
_WHOLE: Final = records.ROWS.add_columns(
    *(state.c[name] for name in records.FILED)
).where(state.c.place == bindparam("at"))
_WITHOUT: Final = (
    select(log.c.resource)
    .distinct()
    .select_from(log.outerjoin(state, state.c.place == log.c.resource))
    .where(
        log.c.idx > bindparam("after"),
        log.c.idx <= bindparam("upto"),
        # It is kept elsewhere, and says that here is nothing.
        log.c.kind != str(Kind.TOMBSTONE),
        state.c.place.is_(None),
    )
)


class Inspecting(Counting):
    """What a store is asked by whoever believes no index."""

    def rows(self, *, after: str = "", limit: int = 100) -> list[Row]:
        """Rows of all kinds, ordered by place, each with what is wrong about it.

        Raises IntegrityFailure for a row whose place is no text: SQLite keeps anything.
        """
        with self._database.snapshot() as connection:
            query = {"after": after, "most": limit}
            kept = connection.execute(_PLACES, query).scalars().all()
            places = [at for at in kept if isinstance(at, str)]
            if kept and not places:
                raise IntegrityFailure("the state has rows that are kept nowhere")
            # One by one: what does not read must not hide its neighbours.
            found = [connection.execute(_WHOLE, {"at": at}).first() for at in places]
            return [records.found(connection, row) for row in found if row is not None]

    def file_again(self, stored: StoredRecord) -> bool:
        """Derive the columns that queries go by from a record whose MAC was checked.

        False: the row is another by now, or another row is filed in its place.
        """
        row = row_of(stored, index=stored.index)
        same = [state.c[name] == row[name] for name in ("place", "record", "mac")]
        filed = {name: row[name] for name in records.FILED}
        try:
            with self._database.writing() as connection:
                done = connection.execute(update(state).where(*same).values(filed))
        except exc.IntegrityError:
            # A version has one row. The other one is repaired, too, or alarms.
            return False
        return done.rowcount == 1

    def gone(self, after: int, upto: int) -> list[str]:
        """Resources whose state is missing, though the log's entries there made it."""
        missing = []
        with self._database.snapshot() as connection:
            stretch = {"after": after, "upto": upto}
            for resource in connection.execute(_WITHOUT, stretch).scalars().all():
                try:
                    records.find(connection, resource)
                except IntegrityFailure:
                    missing.append(resource)
        return missing
