"""How many keys there are, kept where nobody has to count them again.

The number is changed in the transaction that adds a key or buries one. Where it is not
kept (the store is older than it, or was just taken from a snapshot), the next key that
is added counts them all, once. It decides about quotas and nothing else: whoever can
change it in the store itself can change how many keys fit.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Connection,
    String,
    cast,
    func,
    insert,
    select,
    update,
)

from hsmvault.model.log import Kind
from hsmvault.store.schema import meta, state

_NAME: Final = "count/key"
_OURS: Final = meta.c.name == _NAME
_KEPT: Final = select(meta.c.value).where(_OURS)
_COUNTED: Final = select(func.count()).where(state.c.kind == str(Kind.KEY))


def keys(connection: Connection) -> int:
    """Return how many keys there are, deleted ones included."""
    kept = connection.execute(_KEPT).scalar()
    return connection.execute(_COUNTED).scalar_one() if kept is None else int(kept)


def added(connection: Connection) -> None:
    """Take note of a key that was just added."""
    if not _change(connection, 1):
        found = connection.execute(_COUNTED).scalar_one()
        connection.execute(insert(meta).values(name=_NAME, value=str(found)))


def buried(connection: Connection) -> None:
    """Take note of a key that was just purged."""
    _change(connection, -1)


def _change(connection: Connection, more: int) -> bool:
    value = cast(cast(meta.c.value, BigInteger) + more, String)
    done = connection.execute(update(meta).where(_OURS).values(value=value))
    return bool(done.rowcount)
