"""A snapshot: the state at one position, carried to a region that cannot follow yet."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final

from sqlalchemy import Connection, Table, delete, insert, select

from hsmvault.model.errors import IntegrityFailure, NotFound, TwoHistories
from hsmvault.model.log import Head, Kind, RequestMark
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.model.vault_records import EpochRecord
from hsmvault.store import log, wrapped
from hsmvault.store.lines import RequestAt, SnapshotItem
from hsmvault.store.schema import fork_of, meta, opened, requests, row_of, staged, state
from hsmvault.store.schema import log as log_table
from hsmvault.store.schema import wrapped as wrapped_table
from hsmvault.store.wrapped import BATCH, batches

_KEPT: Final = ("region", "generation")
"""What stays of `meta`: whose store it is is not the snapshot's to say."""


def export(connection: Connection, region: str) -> Iterator[SnapshotItem]:
    """Yield the head, the fork table, all other state, and what `region` may open.

    Needs a connection that sees one moment.
    """
    head = log.head(connection)
    if head is None:
        raise NotFound("there is no vault here to take a snapshot of")
    yield head
    columns = (
        state.c.kind,
        state.c.resource,
        state.c.revision,
        state.c.record,
        state.c.idx,
    )
    forks = state.c.kind == str(Kind.EPOCH)
    for part in (forks, ~forks):
        for row in _stream(connection, select(*columns).where(part)):
            kind, resource, revision, record, index = row
            yield StoredRecord(Kind(kind), resource, revision, record, index=index)
    keys = select(wrapped_table).where(wrapped_table.c.region == region)
    for version, of, wrapping_key, mechanism, raw, _ in _stream(connection, keys):
        yield WrappedKey(version, of, wrapping_key, mechanism, raw)
    for row in _stream(connection, select(requests).order_by(requests.c.idx)):
        principal, method, request_id, index, digest, answer = row
        yield RequestAt(
            index, RequestMark(principal, method, request_id, digest, answer)
        )


def _stream(connection: Connection, query: Any) -> Iterator[Any]:
    with closing(connection.execution_options(yield_per=BATCH).execute(query)) as rows:
        yield from rows


def stage(connection: Connection, snapshot: str, n: int, chunk: bytes) -> None:
    """Keep one chunk, and none of any other snapshot."""
    connection.execute(delete(staged).where(staged.c.snapshot != snapshot))
    connection.execute(delete(staged).where(staged.c.n == n))
    connection.execute(insert(staged), {"snapshot": snapshot, "n": n, "chunk": chunk})


def install(
    connection: Connection,
    head: Head,
    *,
    region: str,
    states: Iterable[StoredRecord],
    rows: Iterable[tuple[WrappedKey, bytes]],
    marks: Iterable[RequestAt],
    seal: bytes,
) -> None:
    """Take a snapshot in place of what is held, if it is ahead on the same lineage."""
    ours = log.head(connection)
    for table in (log_table, state, wrapped_table, requests, staged):
        connection.execute(delete(table))
    connection.execute(delete(meta).where(meta.c.name.not_in(_KEPT)))
    forks: list[EpochRecord] = []
    last: dict[Kind, int] = {}
    for some in batches(states):
        for stored in some:
            _require_within(stored, head)
            last[stored.kind] = max(last.get(stored.kind, 0), stored.index)
            if stored.kind is Kind.EPOCH:
                forks.append(fork_of(opened(stored)))
        _insert(connection, state, [row_of(one, index=one.index) for one in some])
    _require_ahead(ours, head, sorted(forks, key=lambda fork: fork.number))
    for given in batches(rows):
        alien = any(key.region != region for key, _ in given)
        if alien or wrapped.put(connection, given) != len(given):
            raise IntegrityFailure(
                "the snapshot holds wrapped keys that are not its own"
            )
    for mark in marks:
        if mark.index > head.position.index:
            raise IntegrityFailure("the snapshot holds a request from beyond its head")
        log.put_request(connection, mark.mark, mark.index)
    log.rebase(connection, head, last, mac=seal)


def _insert(
    connection: Connection, table: Table, rows: list[dict[str, object]]
) -> None:
    connection.execute(insert(table), rows)


def _require_within(stored: StoredRecord, head: Head) -> None:
    if not stored.mac or not 1 <= stored.index <= head.position.index:
        raise IntegrityFailure(
            "the snapshot's {resource} bears no MAC, or is from beyond its head",
            resource=stored.resource,
        )


def _require_ahead(ours: Head | None, head: Head, forks: Sequence[EpochRecord]) -> None:
    """Refuse a snapshot whose history is not ours, or ends where ours has been."""
    if not forks or forks[-1].epoch != head.position.epoch:
        raise IntegrityFailure("the snapshot's fork table does not end in its epoch")
    if ours is None:
        return
    on_lineage = log.reached(ours.position, end=head, forks=forks)
    if not on_lineage or ours.position.index >= head.position.index:
        raise TwoHistories(
            "the snapshot at {theirs} is not ahead of what is held, {ours}",
            theirs=head.position,
            ours=ours.position,
        )
