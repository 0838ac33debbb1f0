"""The first schema: the log, the state, wrapped keys, requests, staged snapshots."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _name(name: str, *, nullable: bool = False, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, _NAME, nullable=nullable, primary_key=key)


def _raw(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def upgrade() -> None:
    op.create_table("meta", _name("name", key=True), _name("value"))
    op.create_table(
        "log",
        sa.Column("idx", sa.BigInteger, primary_key=True, autoincrement=False),
        _number("epoch"),
        _name("region"),
        _number("time_ms"),
        _name("kind"),
        _name("resource"),
        _raw("record"),
        _raw("chain"),
    )
    op.create_index("log_resource", "log", ["resource", "kind", "idx"])
    op.create_index("log_kind", "log", ["kind", "idx"])
    op.create_table(
        "state",
        _name("place", key=True),
        _name("kind"),
        _name("resource"),
        _number("revision"),
        _raw("record"),
        _raw("mac"),
        _number("idx"),
        _name("parent", nullable=True),
        _name("version", nullable=True),
        _name("life", nullable=True),
    )
    op.create_index("state_kind", "state", ["kind", "place"])
    op.create_index("state_version", "state", ["version"], unique=True)
    unusual = sa.text("life IS NOT NULL")
    op.create_index(
        "state_life",
        "state",
        ["kind", "life", "place"],
        sqlite_where=unusual,
        postgresql_where=unusual,
    )
    _material()


def _material() -> None:
    op.create_table(
        "wrapped",
        _name("version", key=True),
        _name("region", key=True),
        _name("wrapping_key"),
        _name("mechanism"),
        _raw("wrapped"),
        _raw("mac"),
    )
    op.create_index("wrapped_region", "wrapped", ["region"])
    op.create_table(
        "requests",
        _name("principal", key=True),
        _name("method", key=True),
        _name("request_id", key=True),
        sa.Column("idx", sa.BigInteger, nullable=False, unique=True),
        _raw("digest"),
        _raw("answer"),
    )
    op.create_table(
        "staged",
        _name("snapshot", key=True),
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        _raw("chunk"),
    )
