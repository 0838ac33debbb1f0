"""The log: an unbroken chain of entries, and the rules by which it grows."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, func, insert, select

from hsmvault.model.errors import (
    IntegrityFailure,
    LogCompacted,
    PositionLost,
    StaleEpoch,
    TwoHistories,
)
from hsmvault.model.log import (
    GENESIS,
    Entry,
    Epoch,
    Head,
    Kind,
    Position,
    RequestMark,
    chain,
)
from hsmvault.model.vault_records import EpochRecord
from hsmvault.store.schema import fork_of, log, meta, requests, state

_BASE: Final = "base"
_SEAL: Final = "base_mac"
_LAST: Final = "last/"

_HEAD: Final = select(log.c.epoch, log.c.region, log.c.idx, log.c.chain)
_END: Final = _HEAD.order_by(log.c.idx.desc()).limit(1)
_FIRST: Final = select(func.min(log.c.idx))
_AT: Final = _HEAD.where(log.c.idx == bindparam("at"))
_META: Final = select(meta.c.value).where(meta.c.name == bindparam("meta_name"))
_ENTRIES: Final = (
    select(
        log,
        requests.c.principal,
        requests.c.method,
        requests.c.request_id,
        requests.c.digest,
        requests.c.answer,
    )
    .select_from(log.outerjoin(requests, requests.c.idx == log.c.idx))
    .where(log.c.idx > bindparam("after"))
    .order_by(log.c.idx)
    .limit(bindparam("most"))
)
_LAST_OF: Final = select(func.max(log.c.idx)).where(log.c.kind == bindparam("of"))
_FORKS: Final = select(state.c.record).where(state.c.kind == str(Kind.EPOCH))


def head(connection: Connection) -> Head | None:
    """Return the end of the log; with no entry in it, where it will go on."""
    row = connection.execute(_END).first()
    return base(connection) if row is None else _head(row)


def base(connection: Connection) -> Head | None:
    """Return the head of the snapshot that this log goes on from, None: of none."""
    value = connection.execute(_META, {"meta_name": _BASE}).scalar()
    if value is None:
        return None
    position, _, digest = value.partition(":")
    return Head(Position.parse(position), bytes.fromhex(digest))


def beginning(connection: Connection) -> Head | None:
    """Where the log begins; refused, where it holds entries before that."""
    start = base(connection)
    if start is not None and holds(connection, start.position.index):
        raise TwoHistories(
            "the log holds entries before {base}, where it should begin",
            base=start.position,
        )
    return start


def seal(connection: Connection) -> bytes:
    """Return the MAC over the base, as it was given with it."""
    value = connection.execute(_META, {"meta_name": _SEAL}).scalar()
    return bytes.fromhex(value or "")


def head_at(connection: Connection, index: int) -> Head | None:
    """Return the head as it was at `index`, None beyond the end."""
    row = connection.execute(_AT, {"at": index}).first()
    if row is not None:
        return _head(row)
    start = base(connection)
    if start is not None and index <= start.position.index:
        if index == start.position.index:
            return start
        raise _compacted(index, start)
    return None


def holds(connection: Connection, index: int) -> bool:
    """Tell whether any entry at `index` or before it is held."""
    first = connection.execute(_FIRST).scalar()
    return first is not None and first <= index


def entries(connection: Connection, after: int, limit: int) -> list[Entry]:
    """Return entries in order; a missing one is noticed, also at the beginning."""
    rows = connection.execute(_ENTRIES, {"after": after, "most": limit}).all()
    found = [_entry(row) for row in rows]
    for expected, entry in enumerate(found, start=max(after, 0) + 1):
        if entry.position.index != expected:
            _require_kept(connection, after)
            raise IntegrityFailure(
                "entry {index} of the log is missing from the store", index=expected
            )
    if not found:
        _require_kept(connection, after)
    return found


def _require_kept(connection: Connection, after: int) -> None:
    start = base(connection)
    if start is not None and after < start.position.index:
        raise _compacted(after + 1, start)


def _compacted(index: int, start: Head) -> LogCompacted:
    return LogCompacted(
        "entry {index} is not here: this log begins after {base}; take a snapshot",
        index=index,
        base=start.position,
    )


def last_index(connection: Connection, kinds: Iterable[Kind]) -> int:
    """Return the index of the last entry of one of these kinds, 0 if there is none."""
    last = 0
    for kind in kinds:
        found = connection.execute(_LAST_OF, {"of": str(kind)}).scalar()
        if found is None:
            # Before the base: noted when the snapshot was installed.
            before = connection.execute(_META, {"meta_name": f"{_LAST}{kind}"}).scalar()
            found = int(before or 0)
        last = max(last, found)
    return last


def lineage(connection: Connection) -> list[EpochRecord]:
    """Return the fork table, oldest epoch first."""
    forks = [
        fork_of(EpochRecord.from_bytes(raw))
        for (raw,) in connection.execute(_FORKS).all()
    ]
    return sorted(forks, key=lambda fork: fork.number)


def reached(
    position: Position, *, end: Head | None, forks: Sequence[EpochRecord]
) -> bool:
    """Tell whether a log with this end and fork table has come to `position`.

    Raises PositionLost where it never will: the position lies beyond the place where
    its epoch was cut, or in an epoch that is not of this lineage.
    """
    if end is None or position.epoch.number > end.position.epoch.number:
        return False
    following = {one.number: other for one, other in pairwise(forks)}
    fork = next((one for one in forks if one.epoch == position.epoch), None)
    if fork is None:
        raise PositionLost(
            "{position} is of a reign that is not of this vault's history",
            position=position,
        )
    cut = following.get(fork.number)
    last = cut.fork_index if cut else None
    if position.index <= fork.fork_index or (
        last is not None and position.index > last
    ):
        raise PositionLost(
            "{position} is not in this vault's history: of that reign it has entries "
            "{first} to {last}",
            position=position,
            first=fork.fork_index + 1,
            last="now" if last is None else last,
        )
    return position.index <= end.position.index


def follow(previous: Head | None, entry: Entry) -> Head:
    """Return the head after `entry`, or refuse an entry that does not go on from here.

    Raises StaleEpoch for an entry of an older reign, TwoHistories for one that goes on
    from something else, and IntegrityFailure for a gap.
    """
    position = entry.position
    last = previous.position.index if previous else 0
    if position.index != last + 1:
        raise IntegrityFailure(
            "entry {index} does not follow {last}", index=position.index, last=last
        )
    before = previous.chain if previous else GENESIS
    now = previous.position.epoch if previous else None
    if now is not None and position.epoch.number < now.number:
        raise StaleEpoch(
            "entry {position} is of an older reign than {now}",
            position=position,
            now=now,
        )
    if chain(before, entry) != entry.chain:
        raise TwoHistories(
            "entry {position} does not go on from what is held before it",
            position=position,
        )
    if (position.epoch != now) != (entry.kind is Kind.EPOCH):
        raise TwoHistories("{position} is not where an epoch begins", position=position)
    if entry.kind is Kind.EPOCH:
        require_fork(previous, EpochRecord.from_bytes(entry.record), position.epoch)
    return Head(position, entry.chain)


def require_fork(previous: Head | None, fork: EpochRecord, epoch: Epoch) -> None:
    """Refuse an epoch that does not begin where this log ends, or not after its own."""
    last, before = (
        (previous.position.index, previous.chain) if previous else (0, GENESIS)
    )
    number = previous.position.epoch.number if previous else 0
    if (
        fork.epoch != epoch
        or epoch.number <= number
        or (previous is None and epoch.number != 1)
        or fork.fork_index != last
        or fork.fork_chain != before
    ):
        raise TwoHistories(
            "epoch {epoch} does not begin at {last}, where this log ends",
            epoch=epoch,
            last=last,
        )


def linked(previous: Head | None, entry: Entry) -> Entry:
    """Complete an entry of our own with its chain value."""
    return replace(entry, chain=chain(previous.chain if previous else GENESIS, entry))


def append(connection: Connection, entry: Entry) -> None:
    """Write an entry that follows; its request's mark with it."""
    connection.execute(
        insert(log),
        {
            "idx": entry.position.index,
            "epoch": entry.position.epoch.number,
            "region": entry.position.epoch.region,
            "time_ms": entry.time_ms,
            "kind": str(entry.kind),
            "resource": entry.resource,
            "record": entry.record,
            "chain": entry.chain,
        },
    )
    if entry.request is not None:
        put_request(connection, entry.request, entry.position.index)


def put_request(connection: Connection, mark: RequestMark, index: int) -> None:
    """Remember which request made an entry."""
    connection.execute(
        insert(requests),
        {
            "principal": mark.principal,
            "method": mark.method,
            "request_id": mark.request_id,
            "idx": index,
            "digest": mark.digest,
            "answer": mark.answer,
        },
    )


def marked(connection: Connection, mark: RequestMark, index: int) -> bool:
    """Tell whether the entry at `index` was chained with this mark.

    Of what lies before the base nothing is known, as of all there.
    """
    start = base(connection)
    if start is not None and index <= start.position.index:
        return True
    found = entries(connection, index - 1, 1)
    before = head_at(connection, index - 1)
    return (
        bool(found)
        and found[0].request == mark
        and chain(before.chain if before else GENESIS, found[0]) == found[0].chain
    )


def rebase(
    connection: Connection, start: Head, last: dict[Kind, int], *, mac: bytes
) -> None:
    """Let an empty log go on from `start`; `last` is what last_index will answer."""
    values = {_BASE: f"{start.position}:{start.chain.hex()}", _SEAL: mac.hex()}
    values |= {f"{_LAST}{kind}": str(index) for kind, index in last.items()}
    connection.execute(
        insert(meta), [{"name": name, "value": value} for name, value in values.items()]
    )


def _head(row: Row[Any, Any, Any, Any]) -> Head:
    number, region, index, digest = row
    return Head(Position(Epoch(number, region), index), digest)


def _entry(row: Row[*tuple[Any, ...]]) -> Entry:
    r = row._mapping  # noqa: SLF001  SQLAlchemy's public name for it
    mark = None
    if r["principal"] is not None:
        mark = RequestMark(
            r["principal"], r["method"], r["request_id"], r["digest"], r["answer"]
        )
    return Entry(
        Position(Epoch(r["epoch"], r["region"]), r["idx"]),
        r["time_ms"],
        Kind(r["kind"]),
        r["resource"],
        r["record"],
        r["chain"],
        mark,
    )
