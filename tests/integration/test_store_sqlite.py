"""The file itself: how it is opened, who may, what is left in it, what breaks it."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from hsmvault.model.errors import (
    ConfigurationError,
    IntegrityFailure,
    Overloaded,
    StoreUnavailable,
    TwoHistories,
)
from hsmvault.model.log import Kind
from hsmvault.store import sqlite
from hsmvault.store.migrate import config
from hsmvault.store.schema import REVISION, metadata
from hsmvault.store.store import Store
from tests.support.stored import Author, change, key, mark, north, sealed

HOUSE: Final = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with north(path) as store:
        yield store


def opening(path: Path, **options: object) -> Store:
    return Store.open(f"sqlite:///{path}", region="north", **options)  # type: ignore[arg-type]


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """What an intruder, or a disk, does to the file behind our back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


# Opening.


def test_a_new_store_is_for_its_owner_alone(store: Store, path: Path) -> None:
    Author(store).create("payroll")

    for suffix in ("", "-wal", "-shm"):
        mode = Path(f"{path}{suffix}").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600


def test_a_relative_path_is_relative_to_the_regions_directory(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()

    Store.open("sqlite:///store/vault.db", region="north", home=tmp_path).close()

    assert (tmp_path / "store" / "vault.db").is_file()


def test_commits_are_synced_and_deleted_rows_are_overwritten(store: Store) -> None:
    database = store._database
    assert isinstance(database, sqlite.Sqlite)

    for lend in (database.reading, database.writing):
        with lend() as connection:
            assert ask(connection, "journal_mode") == "wal"
            assert ask(connection, "synchronous") == 2
            assert ask(connection, "secure_delete") == 1
            assert ask(connection, "foreign_keys") == 1
    with database.reading() as connection:
        assert ask(connection, "query_only") == 1


def ask(connection: Connection, pragma: str) -> object:
    return connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()


def test_the_migrations_make_the_schema_that_the_code_knows(store: Store) -> None:
    with store._database.reading() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == REVISION
        assert compare_metadata(context, metadata) == []

    assert ScriptDirectory.from_config(config()).get_current_head() == REVISION


def test_processes_that_open_a_new_store_together_all_succeed(path: Path) -> None:
    code = (
        "import sys; from hsmvault.store.store import Store;"
        "Store.open(sys.argv[1], region='north').close()"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{path}"]
    children = [subprocess.Popen(command, cwd=HOUSE) for _ in range(4)]

    assert [child.wait() for child in children] == [0, 0, 0, 0]


def test_a_missing_directory_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="region init"):
        opening(tmp_path / "nowhere" / "vault.db")

    assert not (tmp_path / "nowhere").exists()


def test_a_missing_file_is_made_only_when_asked_for(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no store"):
        opening(path, create=False)

    assert not path.exists()


def test_a_directory_in_the_files_place_is_a_configuration_error(path: Path) -> None:
    path.mkdir()

    with pytest.raises(ConfigurationError, match="not a file"):
        opening(path)


@pytest.mark.parametrize("content", (b"not a database" * 100, b"SQLite format 3\0junk"))
def test_a_file_that_is_no_database_is_left_as_it_is(
    path: Path, content: bytes
) -> None:
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match="not a database"):
        opening(path)

    assert path.read_bytes() == content


def test_another_programs_database_is_left_as_it_is(path: Path) -> None:
    with raw(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")

    with pytest.raises(ConfigurationError, match="another program"):
        opening(path)

    with raw(path) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("bookmarks",)]


def test_a_newer_schema_is_refused_with_the_way_out(store: Store, path: Path) -> None:
    store.close()
    with raw(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0099'")

    with pytest.raises(ConfigurationError, match="newer release"):
        opening(path)


def test_the_store_of_another_region_is_refused(store: Store, path: Path) -> None:
    with pytest.raises(ConfigurationError, match="of region north, not of south"):
        Store.open(f"sqlite:///{path}", region="south")


@pytest.mark.parametrize(
    "url",
    ("", "vault.db", "sqlite://", "sqlite:///:memory:", "mysql://u:secret@h/d",
     "postgresql://u:secret@/nowhere?host=/nonexistent"),
)  # fmt: skip
def test_a_url_that_names_no_store_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Store.open(url, region="north")

    assert "secret" not in str(refused.value)


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A directory of root's, seen by somebody else: permissions do not bind root."""
    home = Path(tempfile.mkdtemp())
    home.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield home
    finally:
        if root:
            os.seteuid(0)
        home.chmod(0o700)
        shutil.rmtree(home)


def _drop_privileges(home: Path) -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        home.chmod(0o500)


def test_a_directory_without_permission_is_a_configuration_error() -> None:
    with unprivileged() as home:
        _drop_privileges(home)

        with pytest.raises(ConfigurationError, match="permission"):
            opening(home / "vault.db")


def test_a_store_that_cannot_be_written_is_a_configuration_error() -> None:
    with unprivileged() as home:
        north(home / "vault.db").close()
        (home / "vault.db").chmod(0o444)
        _drop_privileges(home)

        with pytest.raises(ConfigurationError, match="permission"):
            opening(home / "vault.db")


# Disks.

_FILL: Final = """
import resource, sys
from pathlib import Path
from hsmvault.model.errors import StoreUnavailable
from hsmvault.store.store import Store
from tests.support.stored import Author
store = Store.open(sys.argv[1], region="north")
author = Author(store)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
for n in range(10_000):
    try:
        author.create(f"k{n}")
    except StoreUnavailable as error:
        assert "disk" in str(error), error
        break
before = n, store.head()
for _ in range(3):
    try:
        author.create(f"k{n}")
    except StoreUnavailable:
        assert store.head() == before[1]
        assert store.state(f"keys/k{n}") is None
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
author.create(f"k{n}")
print(n + 1)
"""


def test_a_full_disk_is_said_so_and_loses_nothing(store: Store, path: Path) -> None:
    """The limit on the size of files stands in for the disk's end."""
    child = subprocess.run(
        [sys.executable, "-c", _FILL, f"sqlite:///{path}"],
        stdout=subprocess.PIPE,
        check=True,
        cwd=HOUSE,
    )

    assert store.count(Kind.KEY) == int(child.stdout) > 1
    assert store.verify_chain() == store.head()


def test_a_store_that_became_read_only_says_so(store: Store) -> None:
    before = store.head()
    with store._database.writing() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")

    with pytest.raises(StoreUnavailable, match="read-only"):
        Author(store).create("payroll")

    assert store.head() == before


def test_a_writer_that_others_keep_out_gives_up(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "WRITE_WAIT_SECONDS", 0.05)
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(Overloaded):
            Author(store).create("payroll")

        assert store.state("keys/payroll") is None
    Author(store).create("payroll")


def test_a_file_damaged_while_open_is_an_integrity_failure(path: Path) -> None:
    with north(path) as store:
        Author(store).create("payroll")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))

    with pytest.raises((IntegrityFailure, ConfigurationError)), opening(path) as store:
        store.states(Kind.KEY)


# What is left after a purge.


def everything_in(path: Path) -> bytes:
    names = (path, Path(f"{path}-wal"))
    return b"".join(name.read_bytes() for name in names if name.exists())


def test_nothing_of_a_purged_keys_material_is_left_in_the_files(
    store: Store, path: Path
) -> None:
    author = Author(store)
    made, first = author.create("payroll", "north", "south")
    material = sealed(first, "south").wrapped
    assert material in everything_in(path)

    author.purge(made, first)

    assert material not in everything_in(path)
    assert sealed(first).wrapped not in everything_in(path)


def test_a_reader_in_the_way_only_delays_the_erasing(store: Store, path: Path) -> None:
    author = Author(store)
    made, first = author.create("payroll")
    with raw(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log").fetchone()
        author.purge(made, first)
        assert sealed(first).wrapped in everything_in(path)

    author.commit(change(key("next")))

    assert sealed(first).wrapped not in everything_in(path)


def test_nothing_of_a_removed_regions_material_is_left(
    store: Store, path: Path
) -> None:
    _, first = Author(store).create("payroll", "north", "south")

    store.drop_wrapped("south")

    assert sealed(first, "south").wrapped not in everything_in(path)


# Tampering. An intruder may write to the file, but has no integrity key.


def state_of(resource: str) -> Callable[[Store], object]:
    return lambda store: store.state(resource)


def verify(store: Store) -> object:
    return store.verify_chain()


def entries(store: Store) -> object:
    return store.entries(0)


def list_keys(store: Store) -> object:
    return store.states(Kind.KEY)


TAMPERED: Final = {
    "a state row edited": (
        (
            "UPDATE state SET record = replace(cast(record as text), 'true', 'false')"
            " WHERE place = 'keys/a'"
        ),
        state_of("keys/a"),
    ),
    "a state row edited, listed": (
        "UPDATE state SET record = x'7b7d' WHERE place = 'keys/a'",
        list_keys,
    ),
    "state rows swapped": (
        (
            "UPDATE state SET (record, mac, revision, idx) ="
            " (SELECT record, mac, revision, idx FROM state o WHERE o.place = 'keys/b')"
            " WHERE place = 'keys/a'"
        ),
        state_of("keys/a"),
    ),
    "a state row taken from another place": (
        "UPDATE state SET place = 'keys/c' WHERE place = 'keys/b'",
        state_of("keys/c"),
    ),
    "a state row deleted": (
        "DELETE FROM state WHERE place = 'keys/a'",
        state_of("keys/a"),
    ),
    "a version's row deleted": (
        "DELETE FROM state WHERE kind = 'key_version'",
        lambda store: store.state(store.entries(5, limit=1)[0].resource),
    ),
    "a version given to another key": (
        "UPDATE state SET parent = 'keys/b' WHERE parent = 'keys/a'",
        lambda store: store.states(Kind.KEY_VERSION),
    ),
    "an entry's record edited": (
        "UPDATE log SET record = x'7b7d' WHERE idx = 5",
        verify,
    ),
    "an entry's time edited": ("UPDATE log SET time_ms = 1 WHERE idx = 5", verify),
    "an entry's epoch edited": ("UPDATE log SET epoch = 2 WHERE idx = 5", verify),
    "an entry's resource edited": (
        "UPDATE log SET resource = 'keys/z' WHERE idx = 5",
        verify,
    ),
    "an entry deleted": ("DELETE FROM log WHERE idx = 5", verify),
    "the first entry deleted": ("DELETE FROM log WHERE idx = 1", entries),
    "entries swapped": (
        (
            "UPDATE log SET idx = -idx WHERE idx IN (5, 7);"
            "UPDATE log SET idx = 12 + idx WHERE idx < 0"
        ),
        verify,
    ),
    "a request's answer edited": (
        "UPDATE requests SET answer = x'00'",
        verify,
    ),
    "a request's mark moved": ("UPDATE requests SET idx = 5", verify),
    "a request's mark deleted": ("DELETE FROM requests", verify),
    "log and state edited alike": (
        (
            "UPDATE log SET record = x'7b7d' WHERE idx = 5;"
            "UPDATE state SET record = x'7b7d' WHERE idx = 5"
        ),
        verify,
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_noticed(store: Store, path: Path, what: str) -> None:
    author = Author(store)
    author.create("a")
    author.create("b")
    author.commit(change(key("marked")), request=mark())
    statements, read = TAMPERED[what]

    with raw(path) as connection:
        connection.executescript(statements)

    with pytest.raises(IntegrityFailure):
        read(store)


def test_a_state_row_set_back_to_what_it_was_is_noticed(
    store: Store, path: Path
) -> None:
    """Its MAC was ours and still is: only the log knows that it is old."""
    author = Author(store)
    made, _ = author.create("a")
    with raw(path) as connection:
        connection.execute(
            "CREATE TEMP TABLE old AS SELECT * FROM state WHERE place = 'keys/a'"
        )
        author.update(made, enabled=False)

        connection.execute("INSERT OR REPLACE INTO state SELECT * FROM old")

    for read in (state_of("keys/a"), list_keys):
        with pytest.raises(IntegrityFailure):
            read(store)
    with pytest.raises(IntegrityFailure):
        author.update(made)


def test_a_purged_key_put_back_is_noticed(store: Store, path: Path) -> None:
    """All of it, as a copy of the file has it: rows with MACs that were ours."""
    author = Author(store)
    made, first = author.create("a")
    with raw(path) as connection:
        connection.execute("CREATE TEMP TABLE old AS SELECT * FROM state WHERE idx > 4")
        connection.execute("CREATE TEMP TABLE keys AS SELECT * FROM wrapped")
        author.purge(made, first)

        connection.execute("INSERT INTO state SELECT * FROM old")
        connection.execute("INSERT INTO wrapped SELECT * FROM keys")

    for read in (
        state_of("keys/a"),
        state_of(first.resource),
        list_keys,
        lambda s: s.states(Kind.KEY_VERSION),
    ):
        with pytest.raises(IntegrityFailure):
            read(store)


def test_a_tail_of_the_log_that_was_replaced_is_noticed(
    store: Store, path: Path
) -> None:
    """The chain that was verified before is what the tail must go on from."""
    Author(store).create("a")
    seen = store.verify_chain()
    with raw(path) as connection:
        connection.execute("UPDATE log SET chain = zeroblob(32) WHERE idx = 6")

    with pytest.raises(TwoHistories):
        store.verify_chain(seen)


# Siblings.

_SIBLING: Final = """
import sys
from hsmvault.store.store import Store
from tests.support.stored import Author
store = Store.open(sys.argv[1], region="north")
author = Author(store)
sys.stdin.readline()
for n in range(50):
    author.create(f"{sys.argv[2]}{n}")
"""


def sibling(path: Path, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _SIBLING, f"sqlite:///{path}", name]
    return subprocess.Popen(command, cwd=HOUSE, stdin=subprocess.PIPE, text=True)


def test_processes_that_write_together_make_one_log(store: Store, path: Path) -> None:
    children = [sibling(path, name) for name in ("a", "b", "c")]

    for child in children:
        child.communicate("go\n")

    assert [child.returncode for child in children] == [0, 0, 0]
    assert store.count(Kind.KEY) == 150
    head = store.head()
    assert head is not None
    assert head.position.index == 4 + 2 * 150
    assert store.verify_chain() == head


def test_what_a_sibling_committed_is_seen_at_once(store: Store, path: Path) -> None:
    store.changed()
    assert not store.changed()

    sibling(path, "a").communicate("go\n")

    assert store.changed()
    assert store.state("keys/a49") is not None
    assert not store.changed()


def test_asking_for_changes_never_keeps_the_log_from_being_truncated(
    store: Store, path: Path
) -> None:
    store.changed()
    made, first = Author(store).create("payroll")
    store.changed()

    Author(store).purge(made, first)

    assert Path(f"{path}-wal").stat().st_size == 0
