"""What the store needs of a database: reads, snapshots, writes one at a time."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import URL, Connection, exc, make_url

from hsmvault.model.errors import ConfigurationError

WRITE_WAIT_SECONDS: Final = 10.0
"""How long a write waits for others. Each takes milliseconds, so this is a jam."""


class Database(Protocol):
    """One open database. Safe to call from any thread."""

    def reading(self) -> AbstractContextManager[Connection]:
        """Lend a connection on which every statement is a transaction of its own."""

    def snapshot(self) -> AbstractContextManager[Connection]:
        """Lend a connection that sees one moment, until it is given back."""

    def writing(self) -> AbstractContextManager[Connection]:
        """Lend the one connection that writes, in a transaction that excludes others.

        Leaving without an error commits, durably; with one, nothing happened. Raises
        Overloaded when others write for too long.
        """

    def changed(self) -> bool:
        """Tell whether anything was committed since this thread last asked."""

    def erase_deleted(self) -> None:
        """Leave no copy of what was deleted, as far as that is in our hands."""

    def size(self) -> int:
        """Bytes on the disk."""

    def close(self) -> None: ...


def open_database(url: str, *, home: Path | None, create: bool) -> Database:
    """Open the database that a URL names, or raise ConfigurationError.

    A relative path of SQLite is relative to `home`. Drivers are imported when they
    are needed, since a region starts in a fraction of the time that all would take.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        from hsmvault.store.sqlite import Sqlite

        return Sqlite(_path(parsed, home), create=create)
    from hsmvault.store.postgresql import Postgresql

    return Postgresql(parsed)


def open_counting(url: str, *, home: Path | None) -> Database:
    """Open what lies beside the store of this URL, whose changes nobody follows.

    With SQLite a file of its own, `vault-counters.db` beside `vault.db`; with
    PostgreSQL the same database.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        from hsmvault.store.sqlite import Sqlite

        store = _path(parsed, home)
        beside = store.with_name(f"{store.stem}-counters{store.suffix}")
        return Sqlite(beside, create=True)
    from hsmvault.store.postgresql import Postgresql

    return Postgresql(parsed, followed=False)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        # The URL may hold a password, so it is not repeated.
        raise ConfigurationError(
            "[store] url is not a database URL; write sqlite:///store/vault.db, or "
            "postgresql://user@host/database"
        ) from error
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigurationError(
            f"[store] url names {parsed.get_backend_name()!r}; it must be sqlite or "
            "postgresql"
        )
    return parsed


def _path(url: URL, home: Path | None) -> Path:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError(
            "[store] url names no file: what a region holds must survive its "
            "processes; write sqlite:///store/vault.db"
        )
    return (home or Path()) / url.database
