"""Bringing a database to the schema of this release, or refusing it."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, inspect, select, text

from hsmvault.model.errors import ConfigurationError
from hsmvault.store.database import Database
from hsmvault.store.schema import REVISION, meta

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_REVISION_OF: Final = text("SELECT version_num FROM alembic_version")
_OWNER: Final = "region"


def prepare(database: Database, *, region: str) -> None:
    """Have the newest schema in a store of this region, or raise ConfigurationError.

    Usually a few reads. An upgrade is one transaction that excludes all writers, so of
    several processes that start together one does it, and a crash leaves it undone.
    """
    with database.reading() as connection:
        if _revision(connection) == REVISION:
            owner = _owner(connection)
            if owner is not None:
                return _require_owner(owner, region)
    with database.writing() as connection:
        _upgrade(connection)
        owner = _owner(connection)
        if owner is None:
            connection.execute(insert(meta).values(name=_OWNER, value=region))
    return _require_owner(owner or region, region)


def config(connection: Connection | None = None) -> "Config":
    """Give Alembic its settings; there is no file of them."""
    from alembic.config import Config

    settings = Config()
    settings.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings


def _revision(connection: Connection) -> str | None:
    tables = set(inspect(connection).get_table_names())
    if "alembic_version" in tables:
        return connection.execute(_REVISION_OF).scalar()
    if tables:
        raise ConfigurationError(
            "the database that [store] url names belongs to another program; give the "
            "region one of its own"
        )
    return None


def _upgrade(connection: Connection) -> None:
    held = _revision(connection)
    if held == REVISION:
        return
    from alembic import command
    from alembic.script import ScriptDirectory

    settings = config(connection)
    known = {s.revision for s in ScriptDirectory.from_config(settings).walk_revisions()}
    if held is not None and held not in known:
        raise ConfigurationError(
            f"the store was written by a newer release (schema {held}; this one knows "
            f"up to {REVISION}); start the newer release, or restore a copy from "
            "before the upgrade"
        )
    command.upgrade(settings, "head")


def _owner(connection: Connection) -> str | None:
    query = select(meta.c.value).where(meta.c.name == _OWNER)
    return connection.execute(query).scalar()


def _require_owner(owner: str, region: str) -> None:
    if owner != region:
        raise ConfigurationError(
            f"the store is of region {owner}, not of {region}; correct [store] url"
        )
