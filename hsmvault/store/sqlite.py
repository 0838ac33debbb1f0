"""SQLite: one file, many readers, one writer, and every commit synced to the disk."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    PoolProxiedConnection,
    QueuePool,
    create_engine,
    event,
    exc,
)

from hsmvault.metrics import COMMIT_SECONDS
from hsmvault.model.errors import ConfigurationError, Overloaded
from hsmvault.store.database import WRITE_WAIT_SECONDS
from hsmvault.store.failures import result_code, translated
from hsmvault.store.wal_index import WalIndex
from hsmvault.tracing import timed

_PRAGMAS: Final = (
    # Of every connection: a commit is on the disk before it is answered.
    "PRAGMA synchronous = FULL",
    # What is deleted or overwritten is overwritten with zeros.
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    # No function or view that somebody planted in the file runs.
    "PRAGMA trusted_schema = OFF",
)

_READER_WAIT_MS: Final = 5000
"""Readers wait only while the write-ahead log is recovered after a crash."""

_WRITER_WAIT_MS: Final = 20
"""SQLite polls ever more slowly, up to 100 ms; asked anew, it starts at 1 ms again."""


class Sqlite:
    """A store in one file, shared by the processes of one machine."""

    def __init__(self, path: Path, *, create: bool) -> None:
        _require_file(path, create=create)
        self._path = path
        self._readers = _engine(
            path, "PRAGMA query_only = ON", wait_ms=_READER_WAIT_MS, size=8
        )
        self._writer = _engine(path, wait_ms=_WRITER_WAIT_MS, size=1)
        self._writing = threading.Lock()
        self._threads = threading.local()
        self._watching = threading.Lock()
        self._watches: list[_Watch] = []
        self._erasing = False
        try:
            self._become_wal()
        except BaseException:
            self.close()
            raise

    def _become_wal(self) -> None:
        try:
            with closing(_connect(self._path, wait_ms=_READER_WAIT_MS)) as raw:
                (mode,) = raw.execute("PRAGMA journal_mode = WAL").fetchone()
                # Reads the file, and takes in what a crash left in the log.
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            if result_code(error) not in {
                sqlite3.SQLITE_NOTADB,
                sqlite3.SQLITE_CORRUPT,
            }:
                raise ConfigurationError(
                    f"the store {self._path} cannot be opened ({error}); check its "
                    "disk and permissions"
                ) from error
            raise ConfigurationError(
                f"{self._path} is not a database; move it away, or correct [store] url"
            ) from error
        if mode != "wal":
            raise ConfigurationError(
                f"the disk of {self._path} cannot keep a write-ahead log; put the "
                "store on a local disk"
            )

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with translated(), self._readers.connect() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        with translated(), self._readers.connect() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        deadline = time.monotonic() + WRITE_WAIT_SECONDS
        if not self._writing.acquire(timeout=WRITE_WAIT_SECONDS):
            raise Overloaded("the store is busy with other writes; try again")
        try:
            with (
                timed(COMMIT_SECONDS),
                translated(),
                self._writer.connect() as connection,
            ):
                _begin(connection, deadline)
                try:
                    yield connection
                except BaseException:
                    connection.rollback()
                    raise
                connection.commit()
                if self._erasing:
                    self._truncate(connection)
        finally:
            self._writing.release()

    def erase_deleted(self) -> None:
        # The pages that held it are zeros in the file; older copies of them are in the
        # write-ahead log until it is truncated. A reader in the way is waited for at
        # the next write.
        with self._writing, translated(), self._writer.connect() as connection:
            self._truncate(connection)

    def _truncate(self, connection: Connection) -> None:
        self._erasing = True
        with suppress(exc.DBAPIError):
            statement = "PRAGMA wal_checkpoint(TRUNCATE)"
            busy = connection.exec_driver_sql(statement).one()[0]
            self._erasing = bool(busy)
        connection.rollback()

    def changed(self) -> bool:
        watch = getattr(self._threads, "watch", None)
        if watch is None:
            with translated():
                watch = self._threads.watch = _Watch(self._path)
            with self._watching:
                self._watches = [w for w in self._watches if w.in_use()] + [watch]
        moved: bool = watch.moved()
        return moved

    def size(self) -> int:
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += Path(f"{self._path}{suffix}").stat().st_size
        return total

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        self._readers.dispose()
        self._writer.dispose()


class _Watch:
    """One thread's eye on the file: a connection that only ever asks its version.

    In autocommit and without a transaction, so it never keeps the write-ahead log from
    being truncated. A commit by any other connection moves the version, also one of
    this process.
    """

    def __init__(self, path: Path) -> None:
        self._raw = _connect(path, wait_ms=_READER_WAIT_MS)
        self._thread = threading.current_thread()
        self._path = path
        self._seen = -1
        self._index: WalIndex | None = None
        self._unmoved = b""
        """The header that stood when SQLite was last asked."""

    def moved(self) -> bool:
        # Hot. The header is read first, so what SQLite says is not older than it.
        header = self._index.header() if self._index else b""
        if header and header == self._unmoved:
            return False
        try:
            (version,) = self._raw.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error:
            with translated():
                raise
        self._unmoved = header
        if self._index is None:
            self._index = WalIndex.of(self._path)
        if version == self._seen:
            return False
        self._seen = version
        return True

    def in_use(self) -> bool:
        """Tell whether its thread lives; close it otherwise."""
        if self._thread.is_alive():
            return True
        self.close()
        return False

    def close(self) -> None:
        self._raw.close()


def _connect(path: Path, *, wait_ms: int) -> sqlite3.Connection:
    # Autocommit: transactions are begun by statement, where they are wanted. The pool
    # lends a connection to one thread at a time.
    return sqlite3.connect(
        path, timeout=wait_ms / 1000, isolation_level=None, check_same_thread=False
    )


def _engine(path: Path, *pragmas: str, wait_ms: int, size: int) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        creator=lambda: _connect(path, wait_ms=wait_ms),
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=-1,
        # Neither records nor wrapped keys belong in a traceback.
        hide_parameters=True,
    )

    def prepare(raw: PoolProxiedConnection, _record: Any) -> None:
        cursor = raw.cursor()
        for pragma in (*_PRAGMAS, *pragmas):
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine, "connect", prepare)
    return engine


def _begin(connection: Connection, deadline: float) -> None:
    """Take the write lock now, not at the first write: what is read then stands."""
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except exc.OperationalError as error:
            busy = result_code(error.orig) == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
            connection.rollback()
        else:
            return


def _require_file(path: Path, *, create: bool) -> None:
    """Have a file that we may write, for us alone, or say what is in the way."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigurationError(
            f"the store's directory {folder} does not exist; correct [store] url, or "
            "make the region first: hsmvault region init"
        )
    try:
        if not path.exists():
            if not create:
                raise ConfigurationError(
                    f"there is no store at {path}; correct [store] url, or make the "
                    "region first: hsmvault region init"
                )
            # SQLite gives its other files the mode of this one.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        may = _may(path, os.R_OK | os.W_OK) and _may(folder, os.W_OK | os.X_OK)
    except PermissionError as error:
        raise _forbidden(path) from error
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file; correct [store] url")
    if not may:
        raise _forbidden(path)


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _forbidden(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"no permission to write the store {path} and its directory; give both to "
        "the user that runs the region"
    )
