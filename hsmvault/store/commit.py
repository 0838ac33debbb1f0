"""Writing as the primary: everything a write was decided on is checked again.

Inside one transaction that excludes all other writers: who reigns, what it was decided
on, the revision of everything it touches. Then entries and state, or nothing.
"""

from collections.abc import Callable, Sequence
from typing import Final

from sqlalchemy import Connection, bindparam, select

from hsmvault.model.errors import (
    AlreadyExists,
    ChangedMeanwhile,
    IntegrityFailure,
    NotPrimary,
    StaleEpoch,
)
from hsmvault.model.key_records import TombstoneRecord
from hsmvault.model.log import (
    ACCESS_KINDS,
    Entry,
    Epoch,
    Head,
    Kind,
    Position,
    RequestMark,
)
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import EpochRecord
from hsmvault.store import log, state, wrapped
from hsmvault.store.changes import Change, Expect
from hsmvault.store.schema import requests

_REQUEST: Final = select(requests.c.digest, requests.c.answer, requests.c.idx).where(
    requests.c.principal == bindparam("by"),
    requests.c.method == bindparam("to"),
    requests.c.request_id == bindparam("named"),
)


def require_reign(end: Head | None, *, region: str, epoch: Epoch) -> Head:
    """Refuse to write unless `region` reigns now, and in `epoch`."""
    if end is None:
        raise NotPrimary("region {region} holds no vault yet", region=region)
    now = end.position.epoch
    if now.region != region:
        raise NotPrimary(
            "region {region} is not the primary; {primary} is",
            region=region,
            primary=now.region,
        )
    if now != epoch:
        raise StaleEpoch(
            "this was decided in epoch {epoch}, and now is {now}", epoch=epoch, now=now
        )
    return end


def require_unchanged(connection: Connection, expect: Expect) -> None:
    """Refuse when access or the set of regions is not what the write was decided on."""
    decided = (
        ("role assignments", ACCESS_KINDS, expect.access_index),
        ("regions", {Kind.REGION}, expect.regions_index),
    )
    for what, kinds, index in decided:
        if index is not None and log.last_index(connection, kinds) != index:
            raise ChangedMeanwhile("the {what} changed meanwhile", what=what)


def require_new(connection: Connection, request: RequestMark) -> None:
    """Refuse a request whose first arrival was committed: its answer is kept."""
    if find_request(connection, request.principal, request.method, request.request_id):
        raise ChangedMeanwhile(
            "request {request_id} was answered meanwhile", request_id=request.request_id
        )


def find_request(
    connection: Connection, principal: str, method: str, request_id: str
) -> RequestMark | None:
    """Return the mark of an earlier request, if the log's chain has it there.

    Needs a connection that sees one moment. Raises IntegrityFailure.
    """
    names = {"by": principal, "to": method, "named": request_id}
    row = connection.execute(_REQUEST, names).first()
    if row is None:
        return None
    mark = RequestMark(principal, method, request_id, row.digest, row.answer)
    if not log.marked(connection, mark, row.idx):
        raise IntegrityFailure(
            "the mark of request {request_id} is not the one that the log was written "
            "with; it is not answered by it",
            request_id=request_id,
        )
    return mark


def commit(
    connection: Connection,
    changes: Sequence[Change],
    *,
    region: str,
    expect: Expect,
    time_ms: int,
    request: RequestMark | None,
    guard: Callable[[], None] | None,
) -> tuple[Position, bool]:
    """Append and apply; returns the last position, and whether keys were purged."""
    assert changes, "a write changes something"
    end = require_reign(log.head(connection), region=region, epoch=expect.epoch)
    require_unchanged(connection, expect)
    if request is not None:
        require_new(connection, request)
    if guard is not None:
        guard()
    if any(change.stored.kind is Kind.EPOCH for change in changes):
        raise IntegrityFailure("an epoch does not begin by a write")
    return write(
        connection,
        changes,
        end=end,
        epoch=expect.epoch,
        time_ms=time_ms,
        request=request,
    )


def found(
    connection: Connection,
    changes: Sequence[Change],
    *,
    region: str,
    epoch: Epoch,
    time_ms: int,
) -> Position:
    """Begin the log: the first epoch, and the vault's first records."""
    if log.head(connection) is not None:
        raise AlreadyExists("region {region} holds a vault already", region=region)
    if epoch.region != region:
        raise NotPrimary(
            "an epoch of {primary} does not begin in {region}",
            primary=epoch.region,
            region=region,
        )
    first = changes[0].stored
    if first.kind is not Kind.EPOCH or any(
        change.stored.kind is Kind.EPOCH for change in changes[1:]
    ):
        raise IntegrityFailure("a log begins with its first epoch, and no other")
    log.require_fork(None, EpochRecord.from_bytes(first.record), epoch)
    position, _ = write(
        connection, changes, end=None, epoch=epoch, time_ms=time_ms, request=None
    )
    return position


def write(
    connection: Connection,
    changes: Sequence[Change],
    *,
    end: Head | None,
    epoch: Epoch,
    time_ms: int,
    request: RequestMark | None,
) -> tuple[Position, bool]:
    """Append the changes after `end`; the request's mark goes to the last entry."""
    purged = False
    for number, change in enumerate(changes, start=1):
        stored = change.stored
        held = _held(connection, stored)
        entry = log.linked(
            end,
            Entry(
                Position(epoch, (end.position.index if end else 0) + 1),
                time_ms,
                stored.kind,
                stored.resource,
                stored.record,
                request=request if number == len(changes) else None,
            ),
        )
        log.append(connection, entry)
        purged |= state.put(connection, stored, index=entry.position.index, held=held)
        end = Head(entry.position, entry.chain)
    rows = [row for change in changes for row in change.wrapped]
    if wrapped.put(connection, rows) != len(rows):
        raise ChangedMeanwhile("a version to wrap was purged meanwhile")
    assert end is not None
    return end.position, purged


def _held(connection: Connection, stored: StoredRecord) -> StoredRecord | None:
    """Return what the change replaces, if that is what it was decided on."""
    held = state.find(connection, stored.resource)
    revision = held.revision if held else 0
    if held is not None and stored.revision == 1:
        raise AlreadyExists("{resource} exists already", resource=stored.resource)
    if stored.revision != revision + 1:
        raise ChangedMeanwhile(
            "{resource} changed meanwhile: it is at revision {revision}",
            resource=stored.resource,
            revision=revision,
        )
    if stored.kind is Kind.TOMBSTONE:
        listed = TombstoneRecord.from_bytes(stored.record).versions
        if not state.versions_of(connection, stored.resource) <= set(listed):
            raise ChangedMeanwhile(
                "{resource} has a version more than its purge was decided on",
                resource=stored.resource,
            )
    return held
