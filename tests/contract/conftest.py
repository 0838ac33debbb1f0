"""The databases that the store's contract is run on."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url, text

from hsmvault.store.schema import metadata
from hsmvault.store.store import Store
from tests.support.postgresql import programs, server
from tests.support.stored import FIRST, NOW, genesis

Opener = Callable[[str], Store]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A server for the whole run."""
    bin_dir = programs()
    if bin_dir is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    with server(bin_dir) as url:
        yield url


class Databases:
    """The databases of a server, each used by one test at a time.

    A database is a thousand files, so the next test gets those of the last, emptied.
    """

    def __init__(self, admin: URL) -> None:
        self._admin = admin.set(drivername="postgresql+psycopg")
        self._free: list[URL] = []
        self._lent: list[URL] = []

    def lend(self) -> str:
        if not self._free:
            name = f"t{uuid.uuid4().hex}"
            self._run(self._admin, f"CREATE DATABASE {name}")
            self._free.append(self._admin.set(database=name))
        self._lent.append(self._free.pop())
        return self._lent[-1].render_as_string(hide_password=False)

    def take_back(self) -> None:
        tables = ", ".join(metadata.tables)
        for url in self._lent:
            self._run(url, f"TRUNCATE {tables}")
        self._free += self._lent
        self._lent.clear()

    @staticmethod
    def _run(url: URL, statement: str) -> None:
        engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(text(statement))


@pytest.fixture(scope="session")
def databases(postgresql: str) -> Databases:
    return Databases(make_url(postgresql))


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Gives the URL of a database with nothing in it."""
    if request.param == "sqlite":
        yield lambda: f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db"
        return
    databases: Databases = request.getfixturevalue("databases")
    yield databases.lend
    databases.take_back()


@pytest.fixture
def opened(urls: Callable[[], str]) -> Iterator[Opener]:
    """Opens an empty store for a region; all are closed in the end."""
    with ExitStack() as stack:
        yield lambda region: stack.enter_context(Store.open(urls(), region=region))


@pytest.fixture
def empty(opened: Opener) -> Store:
    return opened("north")


@pytest.fixture
def store(opened: Opener) -> Store:
    """A store of the primary's, with the first entries in it."""
    store = opened("north")
    store.found(genesis(), time_ms=NOW, epoch=FIRST)
    return store


@pytest.fixture
def south(opened: Opener) -> Store:
    """An empty store of an extended region."""
    return opened("south")
