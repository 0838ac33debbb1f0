"""The store of one region: the log and the state it adds up to.

Every write is one transaction that excludes all others and is on the disk when it has
answered; whatever fails leaves nothing behind. Reads never wait for writes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Select, delete, select

from hsmvault.model.errors import IntegrityFailure, TwoHistories, VaultError
from hsmvault.model.log import Entry, Epoch, Head, Kind, Position, RequestMark
from hsmvault.model.stored import Row, StoredRecord, WrappedKey
from hsmvault.model.vault_records import EpochRecord
from hsmvault.store import apply as following
from hsmvault.store import commit as writing
from hsmvault.store import log, snapshot, wrapped
from hsmvault.store import state as records
from hsmvault.store.changes import Change, Expect
from hsmvault.store.database import Database, open_database
from hsmvault.store.inspecting import Inspecting
from hsmvault.store.lines import RequestAt, SnapshotItem, line
from hsmvault.store.migrate import prepare
from hsmvault.store.schema import staged


class Store(Inspecting):
    """The log and the state. Safe to call from any thread.

    A `guard` runs under the write lock: it may read, and must not write.
    """

    def __init__(self, database: Database, region: str) -> None:
        super().__init__(database)
        self.region = region

    @classmethod
    def open(
        cls, url: str, *, region: str, home: Path | None = None, create: bool = True
    ) -> Self:
        """Open a region's store with the schema of this release.

        Raises ConfigurationError, saying what to do, and changes nothing then.
        """
        database = open_database(url, home=home, create=create)
        try:
            prepare(database, region=region)
        except BaseException:
            database.close()
            raise
        return cls(database, region)

    def close(self) -> None:
        """Let go of the database. Nothing is pending: every write has ended."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Reading.

    def changed(self) -> bool:
        """Tell whether anything was committed since this thread last asked."""
        return self._database.changed()

    def head(self) -> Head | None:
        """The end of the log, or None before the first entry."""
        with self._database.reading() as connection:
            return log.head(connection)

    def epoch(self) -> Epoch | None:
        """The present reign: that of the last entry."""
        end = self.head()
        return end.position.epoch if end else None

    def base(self) -> Head | None:
        """Where the log begins: after this head; None: at the first entry."""
        with self._database.reading() as connection:
            return log.base(connection)

    def sealed_base(self) -> tuple[Head, bytes] | None:
        """The same, and the MAC that it was given with: nobody has checked it yet."""
        with self._database.snapshot() as connection:
            start = log.base(connection)
            return None if start is None else (start, log.seal(connection))

    def head_at(self, index: int) -> Head | None:
        """The head as it was at `index`; None beyond the end. Raises LogCompacted."""
        with self._database.snapshot() as connection:
            return log.head_at(connection, index)

    def entries(self, after: int, *, limit: int = 1000) -> list[Entry]:
        """Entries with index > `after`, in order. Raises LogCompacted."""
        with self._database.reading() as connection:
            return log.entries(connection, after, limit)

    def lineage(self) -> list[EpochRecord]:
        """The fork table, oldest epoch first."""
        with self._database.reading() as connection:
            return log.lineage(connection)

    def reached(self, position: Position) -> bool:
        """Tell whether this log has come to `position`; PositionLost: it never will."""
        with self._database.snapshot() as connection:
            end, forks = log.head(connection), log.lineage(connection)
        return log.reached(position, end=end, forks=forks)

    def verify_chain(
        self, after: Head | None = None, *, limit: int = 10_000
    ) -> Head | None:
        """Recompute the chain over up to `limit` entries; returns where it came to.

        Begin with None, which is the log's base, and go on with what was returned until
        that is the head. Raises TwoHistories where an entry is not what was chained.
        """
        if after is None:
            with self._database.snapshot() as connection:
                after = log.beginning(connection)
        elif self.head_at(after.position.index) != after:
            raise TwoHistories("{position} is another here", position=after.position)
        found = self.entries(after.position.index if after else 0, limit=limit)
        for entry in found:
            after = log.follow(after, entry)
        return after

    def state(self, resource: str) -> StoredRecord | None:
        """One resource. Raises IntegrityFailure when log and state disagree."""
        found = None
        # Doubted too: what was purged between two statements is decided below.
        with self._database.reading() as connection, suppress(IntegrityFailure):
            found = records.peek(connection, resource)
        if found is not None:
            return found
        with self._database.snapshot() as connection:
            return records.find(connection, resource)

    def states(
        self,
        kind: Kind,
        *,
        after: str = "",
        prefix: str = "",
        limit: int = 1000,
        state: str | None = None,
    ) -> list[StoredRecord]:
        """State of one kind, ordered by place, from beyond `after`.

        A place is the resource; of a tombstone, `schema.place_of` tells it. `state`
        picks the records that are in this state of their own, by an index.
        """
        query = records.page(
            kind=kind, after=after, prefix=prefix, limit=limit, life=state
        )
        return self._rows(query)

    def due(
        self,
        kind: Kind,
        *,
        before_ms: int,
        state: str,
        after: tuple[int, str] = (0, ""),
        limit: int = 100,
    ) -> list[tuple[int, Row]]:
        """State of one kind that is due by the index, the longest due first.

        Each with its time there, which no MAC is over; `after` is that time and the
        place of the last one of the page before. What is not believed is among them.
        """
        query = records.due(
            kind=kind, before_ms=before_ms, after=after, limit=limit, life=state
        )
        with self._database.snapshot() as connection:
            rows = connection.execute(query).all()
            return [(row.due, records.found(connection, row)) for row in rows]

    def _rows(self, query: Select[*tuple[Any, ...]]) -> list[StoredRecord]:
        with self._database.snapshot() as connection:
            rows = connection.execute(query).all()
            return [records.checked(connection, row) for row in rows]

    def last_index(self, kinds: Sequence[Kind]) -> int:
        """Index of the last entry of one of these kinds; 0: none."""
        with self._database.reading() as connection:
            return log.last_index(connection, kinds)

    def request(
        self, principal: str, method: str, request_id: str
    ) -> RequestMark | None:
        """The mark of an earlier request, if its entry is in the log."""
        with self._database.snapshot() as connection:
            return writing.find_request(connection, principal, method, request_id)

    def size(self) -> int:
        """Bytes on the disk."""
        return self._database.size()

    # Writing, as the primary.

    def commit(
        self,
        changes: Sequence[Change],
        *,
        expect: Expect,
        time_ms: int,
        request: RequestMark | None = None,
        guard: Callable[[], None] | None = None,
    ) -> Position:
        """Append all changes, and apply them, in one durable transaction, or nothing.

        Raises NotPrimary, StaleEpoch, ChangedMeanwhile, AlreadyExists, Overloaded and
        StoreUnavailable. ChangedMeanwhile also when another write came first with this
        request: ask `request` again.
        """
        with self._database.writing() as connection:
            position, purged = writing.commit(
                connection,
                changes,
                region=self.region,
                expect=expect,
                time_ms=time_ms,
                request=request,
                guard=guard,
            )
        if purged:
            self._erase_deleted()
        return position

    def found(
        self, changes: Sequence[Change], *, time_ms: int, epoch: Epoch
    ) -> Position:
        """Begin the log of a new vault; the first change is its first epoch.

        Raises AlreadyExists when there is a log already.
        """
        with self._database.writing() as connection:
            return writing.found(
                connection, changes, region=self.region, epoch=epoch, time_ms=time_ms
            )

    # Following another region.

    def apply(
        self,
        entries: Sequence[Entry],
        *,
        states: Sequence[StoredRecord],
        wrapped: Iterable[tuple[WrappedKey, bytes]] = (),
        expected_head: Head | None = None,
    ) -> Head:
        """Append entries of another region as they are; returns our head then.

        `states` has the record of each entry under our MAC. `expected_head` is the head
        that the sender signed: the batch must end in exactly it. What is held already
        is compared and skipped. Raises TwoHistories, StaleEpoch and IntegrityFailure.
        """
        with self._database.writing() as connection:
            end, purged = following.apply(
                connection,
                entries,
                states=states,
                rows=wrapped,
                expected_head=expected_head,
            )
        if purged:
            self._erase_deleted()
        return end

    # Wrapped keys.

    def wrapped(self, version: str, region: str) -> tuple[WrappedKey, bytes] | None:
        """One wrapped key with its MAC."""
        with self._database.reading() as connection:
            return wrapped.get(connection, version, region)

    def wrapped_for(
        self, versions: Sequence[str], region: str
    ) -> dict[str, tuple[WrappedKey, bytes]]:
        """Many wrapped keys with their MACs, by version; those that are there."""
        with self._database.reading() as connection:
            return wrapped.many(connection, versions, region)

    def put_wrapped(self, rows: Iterable[tuple[WrappedKey, bytes]]) -> int:
        """Keep wrapped keys, but none of a purged version; returns how many."""
        with self._database.writing() as connection:
            return wrapped.put(connection, rows)

    def drop_wrapped(self, region: str) -> int:
        """Forget all that is wrapped for a region; returns how many there were."""
        with self._database.writing() as connection:
            dropped = wrapped.drop(connection, region)
        if dropped:
            self._erase_deleted()
        return dropped

    def unsealed(
        self, region: str, *, after: str = "", limit: int = 100
    ) -> list[StoredRecord]:
        """Versions wrapped for this region, and not yet for `region`, in order."""
        query = wrapped.unsealed(region, own=self.region, after=after, limit=limit)
        return self._rows(query)

    # Snapshots.

    def export_snapshot(self, region: str) -> Iterator[SnapshotItem]:
        """Everything at one position: head, fork table, state, wrapped keys, requests.

        One moment is held for as long as this is iterated over: be quick, since the
        write-ahead log grows meanwhile.
        """
        with self._database.snapshot() as connection:
            yield from snapshot.export(connection, region)

    def snapshot_lines(self, region: str) -> Iterator[bytes]:
        """The same as lines, which `lines.parse` reads."""
        return map(line, self.export_snapshot(region))

    def stage_chunk(self, snapshot_id: str, n: int, chunk: bytes) -> None:
        """Keep a chunk of a snapshot on its way; those of any other are dropped."""
        with self._database.writing() as connection:
            snapshot.stage(connection, snapshot_id, n, chunk)

    def staged(self, snapshot_id: str) -> list[int]:
        """The numbers of the chunks that are here."""
        query = select(staged.c.n).where(staged.c.snapshot == snapshot_id)
        with self._database.reading() as connection:
            return list(connection.execute(query.order_by(staged.c.n)).scalars())

    def staged_chunk(self, snapshot_id: str, n: int) -> bytes | None:
        """One chunk."""
        query = select(staged.c.chunk).where(
            staged.c.snapshot == snapshot_id, staged.c.n == n
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalar()

    def drop_staged(self) -> None:
        """Forget all chunks."""
        with self._database.writing() as connection:
            connection.execute(delete(staged))

    def install_snapshot(
        self,
        head: Head,
        *,
        states: Iterable[StoredRecord],
        wrapped: Iterable[tuple[WrappedKey, bytes]],
        requests: Iterable[RequestAt] = (),
        seal: bytes = b"",
    ) -> None:
        """Take a snapshot in place of all that is held, in one transaction.

        TwoHistories, unless nothing is held, or less, on the same lineage.
        `states` bear our MACs and the indexes they were exported with; `seal` is our
        MAC over `head.base_statement`.
        """
        with self._database.writing() as connection:
            snapshot.install(
                connection,
                head,
                region=self.region,
                states=states,
                rows=wrapped,
                marks=requests,
                seal=seal,
            )
        self._erase_deleted()

    def _erase_deleted(self) -> None:
        # What deleted it stands: a failure here must not look like one of the write.
        with suppress(VaultError):
            self._database.erase_deleted()
