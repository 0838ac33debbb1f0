"""Whether anything was committed: by a look at SQLite's shared header, never too late.

Every call of a region asks it, and trusts a "no" with whom it lets in: a role that was
taken away elsewhere must not be missed once.
"""

import itertools
import random
import select
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import pytest

from hsmvault.store.store import Store
from hsmvault.store.wal_index import HEADER_BYTES, WalIndex
from tests.support.stored import Author, north

_WRITER: Final = """
import sqlite3, sys
writer = sqlite3.connect(sys.argv[1], isolation_level=None)
writer.execute("CREATE TABLE IF NOT EXISTS acked (n)")
n = writer.execute("SELECT count(*) FROM acked").fetchone()[0]
while True:
    n += 1
    writer.execute("INSERT INTO acked VALUES (?)", (n,))
    print(n, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vault.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with north(path) as store:
        yield store


@pytest.mark.parametrize("seed", range(4))
def test_a_look_says_what_sqlite_says(store: Store, path: Path, seed: int) -> None:
    """Against SQLite's own answer, over commits, reads, rollbacks and checkpoints."""
    chance = random.Random(seed)
    author, numbers = Author(store), itertools.count()
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as reference,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("CREATE TABLE aside (n)")

        def version() -> int:
            (number,) = reference.execute("PRAGMA data_version").fetchone()
            return int(number)

        def rolled_back() -> None:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO aside VALUES (2)")
            other.execute("ROLLBACK")

        acts: list[Callable[[], object]] = [
            lambda: author.create(f"key-{next(numbers)}"),
            lambda: other.execute("INSERT INTO aside VALUES (1)"),
            lambda: other.execute("SELECT count(*) FROM aside").fetchone(),
            rolled_back,
            lambda: other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone(),
            lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone(),
            lambda: None,
        ]
        seen = version()
        store.changed()

        for _ in range(120):
            chance.choice(acts)()
            now = version()
            assert store.changed() or now == seen
            assert not store.changed()
            seen = now


def test_a_commit_that_another_process_told_of_is_never_missed(
    store: Store, path: Path
) -> None:
    """Looking all the while, and also after the writer was killed in the midst of one.

    So a commit may come between the look and the question to SQLite.
    """
    chance = random.Random(1)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:

        def newest() -> int:
            (number,) = reader.execute("SELECT max(n) FROM acked").fetchone()
            return int(number or 0)

        for _ in range(4):
            command = [sys.executable, "-c", _WRITER, str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
                assert writer.stdout is not None
                told = int(writer.stdout.readline())
                store.changed()
                seen = newest()
                for _ in range(chance.randrange(200, 400)):
                    while not select.select([writer.stdout], [], [], 0)[0]:
                        if store.changed():
                            seen = newest()
                    told = int(writer.stdout.readline())
                    if store.changed():
                        seen = newest()
                    assert seen >= told
                writer.send_signal(signal.SIGKILL)
            if store.changed():
                seen = newest()
            assert newest() == seen


class _Interrupted:
    """A connection after whose answer something else happens, once."""

    def __init__(
        self, raw: sqlite3.Connection, meanwhile: Callable[[], object]
    ) -> None:
        self._raw, self._meanwhile = raw, [meanwhile]

    def execute(self, statement: str) -> sqlite3.Cursor:
        answer = self._raw.execute(statement)
        # SQLite says the version of when the row is asked for: ask now, and hand it on.
        rows = answer.fetchall()
        while self._meanwhile:
            self._meanwhile.pop()()
        return self._raw.execute(f"SELECT {rows[0][0]}")

    def close(self) -> None:
        self._raw.close()


def test_a_commit_between_the_look_and_the_answer_is_heard_of_next(
    store: Store,
) -> None:
    author = Author(store)
    store.changed()
    store.changed()
    author.create("before")
    watch = store._database._threads.watch  # type: ignore[attr-defined]
    watch._raw = _Interrupted(watch._raw, lambda: author.create("between"))

    assert store.changed()

    assert store.changed()
    assert not store.changed()


def test_looking_takes_no_lock_away_from_sqlite(store: Store, path: Path) -> None:
    """Closing any descriptor of a file ends all locks that the process has on it.

    Without its locks here, a process that begins would take the file for one that a
    crash left, and make it anew under us.
    """
    Author(store).create("payroll")
    looks = [WalIndex.of(path) for _ in range(3)]
    store.changed()
    before = [look.header() for look in looks if look is not None]

    elsewhere = (
        "import sqlite3, sys;"
        "c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM log').fetchone();"
        "c.close()"
    )
    subprocess.run([sys.executable, "-c", elsewhere, str(path)], check=True)

    assert [look.header() for look in looks if look is not None] == before
    assert len(before) == len(looks)
    assert not store.changed()


def test_stores_that_were_closed_leave_no_file_open(tmp_path: Path) -> None:
    counts = []
    for number in range(6):
        with north(tmp_path / f"{number}.db") as store:
            store.changed()
            store.changed()
        counts.append(len(_open_in(tmp_path)))

    assert counts[-1] <= counts[0]


def _open_in(directory: Path) -> list[str]:
    """The files in a directory that this process has open, whatever others open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(f"{directory}/")]


def test_where_there_is_no_shared_header_sqlite_is_asked(path: Path) -> None:
    assert WalIndex.of(path) is None
    path.with_name("vault.db-shm").write_bytes(bytes(HEADER_BYTES - 1))
    assert WalIndex.of(path) is None
