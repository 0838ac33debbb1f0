"""What one follower is sent: a snapshot if it needs one, then the log as it grows."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from hsmvault.model.errors import AccessDenied, LogCompacted, Unavailable
from hsmvault.model.key_records import VersionRecord
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Entry, Head, Kind
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.heads import HeadSigner
from hsmvault.regions.ports import LogStore
from hsmvault.regions.registry import Registry
from hsmvault.replication.links import FollowerLink, Links
from hsmvault.replication.messages import batch_out, head_out
from hsmvault.replication.snapshot import Snapshots
from hsmvault.replication.trust import LINKABLE
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.replication.vouching import Vouching
from hsmvault.replication.watch import LogWatch
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock

BATCH_ENTRIES: Final = 128
"""One batch is one transaction and some 40 ms of HSM work at the follower."""

BATCH_BYTES: Final = 1024 * 1024
"""Where a batch is cut, so that a message stays far below its limit."""

WINDOW_ENTRIES: Final = 4 * BATCH_ENTRIES
"""How far sending runs ahead of acknowledgements: it hides the round trip, and bounds
what waits at a slow follower."""


class Sender:
    """Feeds the followers of this primary. One generator per link runs in `down`."""

    def __init__(
        self,
        *,
        store: LogStore,
        registry: Registry,
        links: Links,
        watch: LogWatch,
        signer: HeadSigner,
        snapshots: Snapshots,
        vouching: Vouching,
        clock: Clock,
        heartbeat: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._links = links
        self._watch = watch
        self._signer = signer
        self._snapshots = snapshots
        self._vouching = vouching
        self._clock = clock
        self._heartbeat = heartbeat
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="snapshot")

    def close(self) -> None:
        """End what makes snapshots."""
        self._maker.shutdown(cancel_futures=True)

    def down(self, link: FollowerLink, alive: Callable[[], bool]) -> Iterator[pb.Down]:
        """Everything that goes down one link, until it is over."""
        feed = _Feed(link)
        while alive() and not link.closed:
            for command in self._links.take_commands(link):
                yield pb.Down(command=command)
            try:
                message = self._next(feed)
            except Unavailable as error:
                # Own partitions or store are away for a moment; the link stays.
                report(Event.JOB_FAILED, job=f"feed {link.region}", problem=str(error))
                message, feed.pause = None, self._heartbeat
            if message is not None:
                yield message
                continue
            if time.monotonic() >= feed.beat:
                feed.beat = time.monotonic() + self._heartbeat
                yield pb.Down(heartbeat=self._beat())
                continue
            self._rest(feed)

    def _beat(self) -> pb.Heartbeat:
        head = self._watch.head
        return pb.Heartbeat(
            head=head_out(head) if head else None, time_ms=self._clock()
        )

    def _rest(self, feed: "_Feed") -> None:
        timeout = max(0.0, feed.beat - time.monotonic())
        if feed.pause:
            # What failed would fail at once again: sit out the interval.
            timeout, feed.pause = min(timeout, feed.pause), 0.0
            self._watch.wait(lambda: bool(feed.link.commands), timeout)
            return
        self._watch.wait(lambda: self._wanted(feed), timeout)

    def _wanted(self, feed: "_Feed") -> bool:
        link = feed.link
        if link.closed or link.commands:
            return True
        if feed.ready is None or feed.snapshot is not None:
            return False
        return self._more(link)

    def _more(self, link: FollowerLink) -> bool:
        head = self._watch.head
        return (
            head is not None
            and head.position.index > link.sent
            and link.sent - link.acked_index < WINDOW_ENTRIES
        )

    def _next(self, feed: "_Feed") -> pb.Down | None:
        link = feed.link
        record = self._current(feed)
        if record is None:
            return None
        if link.wants_snapshot:
            return self._snapshot(feed, record)
        if feed.offered and link.acked_index >= feed.offered:
            # It is installed there: what was made for it need not lie here.
            feed.offered = 0
            self._snapshots.drop(link.region)
        if not self._more(link):
            return None
        try:
            return pb.Down(batch=self._batch(link))
        except LogCompacted:
            link.wants_snapshot = True
            return None

    def _current(self, feed: "_Feed") -> RegionRecord | None:
        """The region's record if it is to be fed now; AccessDenied ends the link."""
        index = self._store.last_index([Kind.REGION])
        if feed.ready is not None and feed.ready[0] == index:
            return feed.ready[1]
        feed.ready = None
        record = self._registry.find(feed.link.region)
        if record is None or record.state not in LINKABLE:
            raise AccessDenied(
                "regions/{region} is no longer part of the vault",
                region=feed.link.region,
            )
        if self._fed(record, feed.link):
            feed.ready = index, record
            return record
        return None

    def _fed(self, record: RegionRecord, link: FollowerLink) -> bool:
        match record.state:
            case RegionState.SUCCEEDED | RegionState.DELETING:
                # One that is being removed and never had anything gets nothing.
                return record.state is RegionState.SUCCEEDED or not link.wants_snapshot
            case RegionState.PROVISIONING:
                # The snapshot must hold every wrapped key: first all is sealed.
                return not self._store.unsealed(record.id, limit=1)
            case _:
                return False

    def _snapshot(self, feed: "_Feed", record: RegionRecord) -> pb.Down | None:
        # Made beside, so that heartbeats go on meanwhile.
        if feed.snapshot is None:
            feed.snapshot = self._maker.submit(self._snapshots.offer, record)
            feed.snapshot.add_done_callback(lambda _: self._watch.nudge())
        if not feed.snapshot.done():
            feed.pause = self._heartbeat / 4
            return None
        manifest, feed.snapshot = feed.snapshot.result(), None
        feed.link.wants_snapshot = False
        feed.link.sent = feed.offered = manifest.head.index
        return pb.Down(snapshot=manifest)

    def _batch(self, link: FollowerLink) -> pb.Batch:
        entries = _cut(self._store.entries(link.sent, limit=BATCH_ENTRIES))
        records = (
            VersionRecord.from_bytes(e.record)
            for e in entries
            if e.kind is Kind.KEY_VERSION
        )
        # Later revisions change the record only: the material is there already.
        versions = [r.version for r in records if r.revision == 1]
        wrapped = self._store.wrapped_for(versions, link.region) if versions else {}
        self._vouching.entries(entries)
        self._vouching.wrapped(wrapped.values())
        last = entries[-1]
        head = self._signer.signed(Head(last.position, last.chain))
        link.sent = last.position.index
        return batch_out(entries, (row for row, _ in wrapped.values()), head)


class _Feed:
    """Where the feeding of one link stands."""

    def __init__(self, link: FollowerLink) -> None:
        self.link = link
        self.beat = 0.0
        """When the next heartbeat is due."""
        self.pause = 0.0
        self.ready: tuple[int, RegionRecord] | None = None
        """The region's record while it is to be fed, and the index it is from."""
        self.snapshot: Future[pb.SnapshotManifest] | None = None
        """The snapshot that is being made."""
        self.offered = 0
        """Index of the snapshot that the region is fetching; 0: none."""


def _cut(entries: list[Entry]) -> list[Entry]:
    """As many entries as one batch takes; always at least one."""
    size = 0
    for number, entry in enumerate(entries):
        size += len(entry.record) + (len(entry.request.answer) if entry.request else 0)
        if size > BATCH_BYTES and number:
            return entries[:number]
    return entries
