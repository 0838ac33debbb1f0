"""When something becomes of a record by itself: keys to purge, keys to rotate."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATE = sa.table(
    "state",
    sa.column("place"),
    sa.column("kind"),
    sa.column("life"),
    sa.column("record"),
    sa.column("due", sa.BigInteger),
)


def upgrade() -> None:
    op.add_column("state", sa.Column("due", sa.BigInteger, nullable=True))
    ahead = sa.text("due IS NOT NULL")
    op.create_index(
        "state_due",
        "state",
        ["kind", "due", "place"],
        sqlite_where=ahead,
        postgresql_where=ahead,
    )
    # Of what was written before, only deleted keys wait for a date.
    connection = op.get_bind()
    deleted = sa.select(_STATE.c.place, _STATE.c.record).where(
        _STATE.c.kind == "key", _STATE.c.life == "DELETED"
    )
    for place, record in connection.execute(deleted).all():
        due = int(json.loads(record)["purge_ms"])
        connection.execute(
            sa.update(_STATE).where(_STATE.c.place == place).values(due=due)
        )
