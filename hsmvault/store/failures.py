"""What a database says went wrong → our errors. What it said stays as the cause."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from sqlalchemy import exc

from hsmvault.model.errors import (
    IntegrityFailure,
    Overloaded,
    StoreUnavailable,
    VaultError,
)

_FULL: Final = (
    "the store's disk is full; nothing was written. Free some space, and try again"
)
_READ_ONLY: Final = (
    "the store is read-only; nothing was written. Check the permissions of its files "
    "and of their directory, and how the disk is mounted"
)
_BUSY: Final = "the store is busy with other writes; try again"
_DAMAGED: Final = (
    "the store's file is damaged. Stop the region, keep the file, and restore a copy "
    "or make the region anew from its primary"
)
_FAILED: Final = (
    "the store failed; whether a write in flight stands is not known, and repeating "
    "it with the same request id is safe. Check the disk or the database server"
)

SQLITE: Final[Mapping[int, tuple[type[VaultError], str]]] = MappingProxyType(
    {
        sqlite3.SQLITE_BUSY: (Overloaded, _BUSY),
        sqlite3.SQLITE_LOCKED: (Overloaded, _BUSY),
        sqlite3.SQLITE_FULL: (StoreUnavailable, _FULL),
        sqlite3.SQLITE_READONLY: (StoreUnavailable, _READ_ONLY),
        sqlite3.SQLITE_PERM: (StoreUnavailable, _READ_ONLY),
        sqlite3.SQLITE_CORRUPT: (IntegrityFailure, _DAMAGED),
        sqlite3.SQLITE_NOTADB: (IntegrityFailure, _DAMAGED),
    }
)
"""By primary result code. Any other is a failure of the disk."""

POSTGRESQL: Final[Mapping[str, tuple[type[VaultError], str]]] = MappingProxyType(
    {
        "55P03": (Overloaded, _BUSY),  # lock_not_available
        "40001": (Overloaded, _BUSY),  # serialization_failure
        "40P01": (Overloaded, _BUSY),  # deadlock_detected
        "53300": (Overloaded, _BUSY),  # too_many_connections
        "53100": (StoreUnavailable, _FULL),  # disk_full
        "25006": (StoreUnavailable, _READ_ONLY),  # read_only_sql_transaction
        "42501": (StoreUnavailable, _READ_ONLY),  # insufficient_privilege
        "XX001": (IntegrityFailure, _DAMAGED),  # data_corrupted
        "XX002": (IntegrityFailure, _DAMAGED),  # index_corrupted
    }
)
"""By SQLSTATE. Any other is a failure of the server or of the way to it."""


def result_code(error: BaseException | None) -> int:
    """Return SQLite's primary result code, or 0 if this is not SQLite's error."""
    # The extended codes keep the primary one in their lowest byte.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def meaning(error: BaseException | None) -> VaultError:
    """Say in our words what a driver's error means."""
    code = result_code(error)
    sqlstate = getattr(error, "sqlstate", None)
    kind, message = (
        SQLITE.get(code)
        or POSTGRESQL.get(sqlstate or "")
        or (StoreUnavailable, _FAILED)
    )
    return kind(message)


@contextmanager
def translated() -> Iterator[None]:
    """Raise our errors instead of the database's, which stay as the cause."""
    try:
        yield
    except exc.TimeoutError as error:
        raise Overloaded(_BUSY) from error
    except (exc.OperationalError, exc.InternalError) as error:
        raise meaning(error.orig) from error
    except exc.DatabaseError as error:
        # Programming errors and broken constraints are bugs, unless SQLite says so of
        # a file that is damaged.
        if result_code(error.orig) not in SQLITE:
            raise
        raise meaning(error.orig) from error
    except sqlite3.DatabaseError as error:
        raise meaning(error) from error
