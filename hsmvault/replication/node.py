"""One region among others: everything that the pool manager does, put together.

Every region listens; only a primary is fed from, so an extended region's listener
refuses. Whether this region leads or follows is read from its log.
"""

import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc

from hsmvault.model.audit_records import AuditHead
from hsmvault.model.errors import InvalidRequest, VaultError
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Position
from hsmvault.model.orders import PLAIN, RemovalOrder, Terms
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.audit_heads import AuditHeads
from hsmvault.regions.caught_up import CaughtUp
from hsmvault.regions.clock import TrustedClock
from hsmvault.regions.due import DueKeys
from hsmvault.regions.heads import Anchors, HeadSigner
from hsmvault.regions.inspection import Inspection
from hsmvault.regions.keeping import Keeping
from hsmvault.regions.operations import Operations
from hsmvault.regions.ports import (
    AuditTrail,
    Executed,
    LogStore,
    Officers,
    Purging,
    Workers,
)
from hsmvault.regions.purge import SelfPurge
from hsmvault.regions.registry import Registry
from hsmvault.regions.remove import Removal
from hsmvault.regions.sealing import Sealing
from hsmvault.replication.apply import Applier
from hsmvault.replication.commands import Commands, Facts
from hsmvault.replication.follower import Follower, Timings
from hsmvault.replication.links import Links
from hsmvault.replication.means import Means
from hsmvault.replication.sender import Sender
from hsmvault.replication.serve import ReplicationServicer, listen
from hsmvault.replication.snapshot import Snapshots
from hsmvault.replication.trust import Identity as Identity  # noqa: PLC0414
from hsmvault.replication.trust import Trust
from hsmvault.replication.vouching import Vouching
from hsmvault.replication.watch import LogWatch
from hsmvault.vault.lasting import Boot, boot_seconds
from hsmvault.vault.ports import Clock, FollowerState, ReplicationState

_LEAVE_AFTER: Final = 0.5
"""Seconds for the answer to reach the primary before the process is gone."""

LAG_ALARM_MS: Final = 60_000
"""Linked regions are within a second; after a minute somebody should look."""

_SHOWN: Final = frozenset(RegionState) - {RegionState.PURGED}


class Node:
    """A region's manager: regions.ports.ManagerDuties. Use as a context manager."""

    def __init__(
        self,
        identity: Identity,
        *,
        store: LogStore,
        workers: Workers,
        officers: Officers,
        purging: Purging,
        clock: Clock,
        audit: AuditTrail,
        directory: Path,
        listen: str,
        boot: Boot = boot_seconds,
        timings: Timings | None = None,
    ) -> None:
        """Put it together; nothing runs before `start`. `listen`: host:port."""
        self._means = Means(
            store, workers, officers, purging, clock, boot, timings or Timings()
        )
        self._identity = identity
        self._store = store
        self._listen = listen
        self._server: grpc.Server | None = None
        self._follows = False
        self._quiet = threading.Lock()
        self.port = 0
        """Port of the private listener, once started."""
        self.alarms = Alarms()
        vault_id = identity.vault_id
        self._registry = Registry(
            store, workers, vault_id=vault_id, clock=clock, audit=audit
        )
        self._trust = Trust(identity, self._registry)
        self._signer = HeadSigner(workers, vault_id=vault_id)
        self._watch = LogWatch(store, every=self._means.timings.poll)
        self._links = Links(
            nudge=self._watch.nudge,
            trust_changed=self._trust.trust_changed,
            linked=self._linked,
            clock=clock,
        )
        self._vouching = Vouching(store, self._registry)
        self._snapshots = Snapshots(
            directory / "snapshots", store, workers, self._vouching, vault_id=vault_id
        )
        self._sender = self._make_sender()
        self._audit_heads = AuditHeads(self._registry, self.alarms)
        self._servicer = self._make_servicer()
        self._operations = self._make_operations(directory / "orders")
        self._clock = TrustedClock(
            clock, boot, peers=self._links.times, alarms=self.alarms, audit=audit
        )
        self._keeping = self._make_keeping()
        self._self_purge = self._make_self_purge()
        self._follower = self._make_follower()

    def _make_servicer(self) -> ReplicationServicer:
        return ReplicationServicer(
            trust=self._trust,
            store=self._store,
            workers=self._means.workers,
            links=self._links,
            sender=self._sender,
            snapshots=self._snapshots,
            audit_heads=self._audit_heads,
            alarms=self.alarms,
        )

    def _make_sender(self) -> Sender:
        return Sender(
            store=self._store,
            registry=self._registry,
            links=self._links,
            watch=self._watch,
            signer=self._signer,
            snapshots=self._snapshots,
            vouching=self._vouching,
            clock=self._means.clock,
            heartbeat=self._means.timings.heartbeat,
        )

    def _make_operations(self, orders: Path) -> Operations:
        means, store, region = self._means, self._store, self._identity.region
        return Operations(
            store=store,
            registry=self._registry,
            workers=means.workers,
            officers=means.officers,
            peers=self._links,
            sealing=Sealing(store, means.workers, self._registry, region=region),
            caught_up=CaughtUp(
                store,
                self._registry,
                self._links,
                clock=means.clock,
                alarms=self.alarms,
            ),
            removal=Removal(
                registry=self._registry,
                store=store,
                workers=means.workers,
                peers=self._links,
                signer=self._signer,
                clock=means.clock,
                directory=orders,
                forgotten=self._snapshots.drop,
            ),
            anchors=Anchors(store, means.workers, self.alarms),
            alarms=self.alarms,
            clock=means.clock,
            region=region,
            retry=means.timings.retry,
            anchor=means.timings.anchor,
            shown=means.timings.shown,
        )

    def _make_keeping(self) -> Keeping:
        means, registry, alarms = self._means, self._registry, self.alarms
        due = DueKeys(
            self._store,
            registry,
            means.workers,
            clock=self._clock,
            wall=means.clock,
            boot=means.boot,
            alarms=alarms,
        )
        return Keeping(
            due,
            Inspection(self._store, registry, boot=means.boot, alarms=alarms),
            self._clock,
            alarms,
            reigns=self._reigns,
            every=means.timings.upkeep,
        )

    def _make_self_purge(self) -> SelfPurge:
        means, identity = self._means, self._identity
        return SelfPurge(
            registry=self._registry,
            workers=means.workers,
            officers=means.officers,
            purging=means.purging,
            clock=means.clock,
            region=identity.region,
            partitions=[p.name for p in identity.card.partitions],
        )

    def _make_follower(self) -> Follower:
        means = self._means
        return Follower(
            trust=self._trust,
            store=self._store,
            applier=Applier(
                self._store, means.workers, self._trust, self._registry.audit
            ),
            commands=Commands(
                trust=self._trust, officers=means.officers, purge=self._purge
            ),
            alarms=self.alarms,
            clock=means.clock,
            timings=means.timings,
        )

    def start(self) -> None:
        """Listen, follow if this region is not primary, and take up unfinished work."""
        self._follows = not self._reigns()
        self._watch.start()
        self._server, self.port = listen(self._servicer, self._trust, self._listen)
        self._operations.start()
        self._keeping.start()
        if self._follows:
            self._follower.start()

    def stop(self, grace: float = 2.0) -> None:
        """End the links and the jobs; what is being applied is applied first."""
        self._links.close("this region stops")
        if self._server is not None:
            self._server.stop(grace).wait()
            self._server = None
        if self._follows:
            self._follower.stop()
        self._stop_jobs()
        self._sender.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- ManagerDuties -------------------------------------------------------

    def replication(self) -> ReplicationState:
        """How this region stands to the others."""
        followers = self._followers()
        behind = tuple(
            f"region {one.region}: {one.lag_ms // 1000} s behind, {one.lag_entries} "
            "entries to come"
            for one in followers
            if one.lag_ms > LAG_ALARM_MS
        )
        return ReplicationState(
            primary_reachable=not self._follows or self._follower.primary_reachable,
            followers=followers,
            alarms=self.alarms.texts() + behind,
        )

    def forward(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        proof: bytes = b"",
        timeout: float,
    ) -> Executed:
        """Run a write at the primary on behalf of a caller of this region."""
        if not self._follows:
            raise InvalidRequest("this region is the primary: nothing to forward")
        return self._follower.forward(
            method,
            request,
            principal=principal,
            proof=proof,
            timeout=timeout,
            policy=self._policy(),
        )

    def append_audit_head(self, head: AuditHead) -> None:
        """Take the signed end of a trail of this region into the log."""
        if self._follows:
            self._follower.append_audit_head(head)
        else:
            self._audit_heads.append(head, of=self._identity.region)

    def await_watermark(
        self, position: Position, *, regions: int, timeout: float
    ) -> tuple[bool, list[str]]:
        """Wait until so many regions (-1: all) have it; who is behind at the end."""
        return self._links.await_watermark(
            position,
            among=[record.id for record in self._registry.receiving()],
            regions=regions,
            timeout=timeout,
        )

    def require_past(self, date_ms: int) -> None:
        """Raise ClockUntrusted unless a clock that can be trusted is past the date."""
        self._clock.require_past(date_ms)

    def resume_sweeper(self, operator: str) -> str:
        """Trust the wall clock on an operator's word; what had spoken against it."""
        return self._clock.vouch(operator)

    def add_region(
        self, record: bytes, *, principal: str, terms: Terms = PLAIN
    ) -> tuple[bytes, Position]:
        """Start adding the region of a RegionRecord; the record as logged."""
        added, position = self._operations.add(
            RegionRecord.from_bytes(record), principal=principal, terms=terms
        )
        return added.to_bytes(), position

    def remove_region(
        self,
        order: RemovalOrder,
        *,
        force: bool,
        principal: str,
        terms: Terms = PLAIN,
    ) -> tuple[bytes, Position]:
        """Start removing a region; its record as logged."""
        removed, position = self._operations.remove(
            order, force=force, principal=principal, terms=terms
        )
        return removed.to_bytes(), position

    # --- inside --------------------------------------------------------------

    def _reigns(self) -> bool:
        epoch = self._store.epoch()
        if epoch is not None:
            return epoch.region == self._identity.region
        return self._identity.joined is None

    def _linked(self) -> None:
        self._operations.wake()

    def _followers(self) -> tuple[FollowerState, ...]:
        if self._follows:
            return (self._follower.state(),)
        head = self._store.head()
        return tuple(
            self._links.state(
                record.id,
                head,
                percent=self._operations.percent(record),
            )
            for record in self._registry.records().values()
            if not record.primary and record.state in _SHOWN
        )

    def _policy(self) -> str:
        try:
            vault = self._registry.vault()
        except VaultError:
            vault = None
        return vault.primary_down_writes if vault else "manual"

    def _purge(self, facts: Facts) -> None:
        """Purge this region, on an order that proves itself; then end the process."""
        self._self_purge.verify(facts)
        self._self_purge.require_officers()
        # Whoever looked at the store after its end would make an empty one.
        self._follower.retire()
        self._stop_jobs()
        self._self_purge.end()
        threading.Timer(_LEAVE_AFTER, self._self_purge.leave).start()

    def _stop_jobs(self) -> None:
        with self._quiet:
            self._keeping.stop()
            self._operations.stop()
            self._watch.stop()
