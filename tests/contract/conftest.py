"""The databases that the store's contract is run on."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from hsmvault.store.store import Store
from tests.support.postgresql import programs, server
from tests.support.stored import FIRST, NOW, genesis

Opener = Callable[[str], Store]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A server for the whole run; each test makes databases of its own in it."""
    bin_dir = programs()
    if bin_dir is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    with server(bin_dir) as url:
        yield url


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]
)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes the URL of a database that is new and empty."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path}/{uuid.uuid4().hex}.db"
    admin = make_url(request.getfixturevalue("postgresql"))

    def create() -> str:
        name = f"t{uuid.uuid4().hex}"
        engine = create_engine(
            admin.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return admin.set(database=name).render_as_string(hide_password=False)

    return create


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
