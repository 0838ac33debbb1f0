"""PostgreSQL: the same store, shared by partition servers on several machines."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import URL, Connection, create_engine, exc, text

from hsmvault.metrics import COMMIT_SECONDS
from hsmvault.model.errors import ConfigurationError, Overloaded
from hsmvault.store.database import WRITE_WAIT_SECONDS
from hsmvault.store.failures import translated
from hsmvault.tracing import timed

_WAIT: Final = text(f"SET LOCAL lock_timeout = {int(WRITE_WAIT_SECONDS * 1000)}")
_DURABLE: Final = text("SET LOCAL synchronous_commit = on")
# The key is "hsmvault" in ASCII. Held until the transaction ends, by one at a time;
# readers do not ask for it.
_LOCK: Final = text("SELECT pg_advisory_xact_lock(7526479757474884724)")
_MOVE: Final = text(
    "INSERT INTO meta (name, value) VALUES ('generation', '1') ON CONFLICT (name) "
    "DO UPDATE SET value = (meta.value::bigint + 1)::text"
)
_GENERATION: Final = text("SELECT value FROM meta WHERE name = 'generation'")
_SIZE: Final = text("SELECT pg_database_size(current_database())")
_VACUUM: Final = text("VACUUM state, wrapped")


class Postgresql:
    """A store on a server."""

    def __init__(self, url: URL, *, followed: bool = True) -> None:
        """Have writes seen by `changed`, unless nobody follows them."""
        self._followed = followed
        self._engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=8,
            max_overflow=-1,
            pool_pre_ping=True,
            hide_parameters=True,
        )
        # Of a read, every statement is a transaction; nothing is left open.
        self._readers = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._moments = self._engine.execution_options(
            isolation_level="REPEATABLE READ"
        )
        self._writing = threading.Lock()
        self._threads = threading.local()
        try:
            with self._readers.connect():
                pass
        except exc.OperationalError as error:
            where = url.render_as_string(hide_password=True)
            self.close()
            raise ConfigurationError(
                f"no connection to the store {where}; check [store] url and that the "
                "server runs and lets this user in"
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with translated(), self._readers.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with translated(), self._moments.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        if not self._writing.acquire(timeout=WRITE_WAIT_SECONDS):
            raise Overloaded("the store is busy with other writes; try again")
        try:
            with (
                timed(COMMIT_SECONDS),
                translated(),
                self._engine.begin() as connection,
            ):
                for statement in (_WAIT, _DURABLE, _LOCK):
                    connection.execute(statement)
                yield connection
                if self._followed:
                    connection.execute(_MOVE)
        finally:
            self._writing.release()

    def changed(self) -> bool:
        with self.reading() as connection:
            generation = connection.execute(_GENERATION).scalar()
        moved = generation != getattr(self._threads, "generation", None)
        self._threads.generation = generation
        return moved

    def erase_deleted(self) -> None:
        # Dead rows become free space, not zeros, and the server's write-ahead log keeps
        # them for as long as the operator archives it: such a server's disks and
        # archives are to be encrypted.
        with self.reading() as connection:
            connection.execute(_VACUUM)

    def size(self) -> int:
        with self.reading() as connection:
            return int(connection.execute(_SIZE).scalar_one())

    def close(self) -> None:
        self._engine.dispose()
