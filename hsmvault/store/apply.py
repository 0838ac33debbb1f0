"""Following: entries of another region, appended exactly as they were written there.

Nothing is overwritten and nothing skipped. An entry that does not go on from what is
held, at the place where it claims to, stops the whole batch.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from hsmvault.model.errors import IntegrityFailure, TwoHistories
from hsmvault.model.log import Entry, Head
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.store import log, state, wrapped


def apply(
    connection: Connection,
    entries: Sequence[Entry],
    *,
    states: Sequence[StoredRecord],
    rows: Iterable[tuple[WrappedKey, bytes]],
    expected_head: Head | None,
) -> tuple[Head, bool]:
    """Append a batch; returns the end of our log, and whether keys were purged.

    Entries that are held already are compared and left alone, so that a batch may
    arrive twice.
    """
    if len(entries) != len(states):
        raise IntegrityFailure("a batch has one state for each entry")
    end = log.head(connection)
    purged = False
    for entry, stored in zip(entries, states, strict=True):
        if end is not None and entry.position.index <= end.position.index:
            _require_same(connection, entry)
            continue
        end = log.follow(end, entry)
        _require_of(entry, stored)
        held = _held(connection, stored)
        log.append(connection, entry)
        purged |= state.put(connection, stored, index=entry.position.index, held=held)
    if expected_head is not None and expected_head != _last(entries):
        raise TwoHistories(
            "the batch does not end in the head {position} that came with it",
            position=expected_head.position,
        )
    if end is None:
        raise IntegrityFailure("an empty batch for an empty log")
    wrapped.put(connection, rows)
    return end, purged


def _last(entries: Sequence[Entry]) -> Head | None:
    return Head(entries[-1].position, entries[-1].chain) if entries else None


def _require_same(connection: Connection, entry: Entry) -> None:
    """Refuse an entry that we hold otherwise."""
    start = log.base(connection)
    if start is not None and entry.position.index < start.position.index:
        # Before our snapshot. It cannot be compared, and nothing is made of it; where
        # the batch meets what we hold, it is.
        return
    held = log.head_at(connection, entry.position.index)
    if held != Head(entry.position, entry.chain):
        raise TwoHistories(
            "entry {position} is another one here", position=entry.position
        )


def _require_of(entry: Entry, stored: StoredRecord) -> None:
    """Refuse a state that is not the entry's, or bears no MAC of ours."""
    theirs = entry.kind, entry.resource, entry.record
    if (stored.kind, stored.resource, stored.record) != theirs or not stored.mac:
        raise IntegrityFailure(
            "the state given for entry {position} is not what it says",
            position=entry.position,
        )


def _held(connection: Connection, stored: StoredRecord) -> StoredRecord | None:
    held = state.find(connection, stored.resource)
    revision = held.revision if held else 0
    if stored.revision != revision + 1:
        raise IntegrityFailure(
            "{resource} is at revision {revision} here, and its next entry is of "
            "revision {next}",
            resource=stored.resource,
            revision=revision,
            next=stored.revision,
        )
    return held
