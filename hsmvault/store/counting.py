"""How much there is in a store: the part of it that answers with numbers."""

from sqlalchemy import func, select

from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Kind
from hsmvault.store import counts, wrapped
from hsmvault.store import state as records
from hsmvault.store.database import Database
from hsmvault.store.schema import state as state_table


class Counting:
    """What a store is asked the number of."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count(self, kind: Kind) -> int:
        """How many resources of a kind there are."""
        query = select(func.count()).where(state_table.c.kind == str(kind))
        with self._database.reading() as connection:
            return connection.execute(query).scalar_one()

    def key_count(self) -> int:
        """How many keys there are, deleted ones included: by a number that is kept."""
        with self._database.reading() as connection:
            return counts.keys(connection)

    def key_counts(self) -> dict[str, int]:
        """How many keys there are in each state."""
        with self._database.snapshot() as connection:
            every, unusual = counts.keys(connection), records.unusual_keys(connection)
        return {str(KeyState.ACTIVE): every - sum(unusual.values()), **unusual}

    def version_count(self, key: str) -> int:
        """How many versions a key, by its resource, has."""
        with self._database.reading() as connection:
            return records.count_versions(connection, key)

    def count_wrapped(self, region: str) -> int:
        """How many versions are wrapped for a region."""
        with self._database.reading() as connection:
            return wrapped.count(connection, region)
