"""What is PostgreSQL's own: a server that is busy, that is gone, that comes back."""

import pytest
from sqlalchemy import create_engine, make_url, text

from hsmvault.model.errors import ConfigurationError, Overloaded
from hsmvault.store import postgresql as server
from hsmvault.store.store import Store
from tests.support.stored import FIRST, NOW, Author, genesis

pytestmark = pytest.mark.postgresql


@pytest.fixture
def database(postgresql: str) -> str:
    """An empty database, dropped by the end of its server."""
    name = "own"
    admin = make_url(postgresql).set(drivername="postgresql+psycopg")
    engine = create_engine(admin, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    url = make_url(postgresql).set(database=name)
    return url.render_as_string(hide_password=False)


def test_a_writer_that_others_keep_out_gives_up(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = create_engine(make_url(database).set(drivername="postgresql+psycopg"))
    with Store.open(database, region="north") as store:
        store.found(genesis(), time_ms=NOW, epoch=FIRST)
        monkeypatch.setattr(server, "_WAIT", text("SET LOCAL lock_timeout = 50"))
        with other.begin() as connection:
            connection.execute(server._LOCK)

            with pytest.raises(Overloaded):
                Author(store).create("payroll")

            assert store.state("keys/payroll") is None
        Author(store).create("payroll")
    other.dispose()


def test_connections_that_were_cut_are_made_anew(database: str) -> None:
    cut = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    other = create_engine(make_url(database).set(drivername="postgresql+psycopg"))
    with Store.open(database, region="north") as store:
        store.found(genesis(), time_ms=NOW, epoch=FIRST)

        with other.begin() as connection:
            connection.execute(cut)

        Author(store).create("payroll")
        assert store.verify_chain() == store.head()
    other.dispose()


def test_the_store_of_another_region_is_refused(database: str) -> None:
    Store.open(database, region="north").close()

    with pytest.raises(ConfigurationError, match="of region north, not of south"):
        Store.open(database, region="south")
