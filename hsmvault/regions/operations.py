"""The pool manager's jobs on regions: one operation at a time, resumed after a crash.

What is to be done is the state in a region's record, and nothing else: a manager that
starts finds the region where the log says it is, and goes on.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from hsmvault.model.errors import (
    ConfigurationError,
    NotPrimary,
    Overloaded,
    Unavailable,
    VaultError,
)
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import Position
from hsmvault.model.orders import RemovalOrder, Terms
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.add import IN_FLIGHT, addable, unfit
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.caught_up import CaughtUp
from hsmvault.regions.ceremony import Party, make_pair_keys
from hsmvault.regions.heads import Anchors
from hsmvault.regions.ports import LogStore, Officers, Peers, Workers
from hsmvault.regions.registry import Registry
from hsmvault.regions.remove import Removal
from hsmvault.regions.sealing import Sealing
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock

_TRANSIENT: Final = (Unavailable, Overloaded)
"""Tried again by itself. Anything else, a wrong PIN above all, is an operator's."""

_RETRY_MAX: Final = 5.0

_SEALING: Final = "sealing goes on"
_SENDING: Final = "it has not everything yet"
_GOING_ON: Final = frozenset({_SEALING, _SENDING})
"""What a step waits for in the course of things: progress, not a problem."""


class Operations:
    """Adds, seals, promotes pending versions, removes. Idle unless primary."""

    def __init__(
        self,
        *,
        store: LogStore,
        registry: Registry,
        workers: Workers,
        officers: Officers,
        peers: Peers,
        sealing: Sealing,
        caught_up: CaughtUp,
        removal: Removal,
        anchors: Anchors,
        alarms: Alarms,
        clock: Clock,
        region: str,
        retry: float = 0.5,
        anchor: float = 10.0,
        shown: float = 5.0,
    ) -> None:
        self._store = store
        self._registry = registry
        self._workers = workers
        self._officers = officers
        self._peers = peers
        self._sealing = sealing
        self._caught_up = caught_up
        self._removal = removal
        self._anchors = anchors
        self._alarms = alarms
        self._clock = clock
        self._own = region
        self._retry = retry
        self._anchor = anchor
        # So long a step waits before what it waits for is logged for all to see.
        self._shown = shown
        self._ending = threading.Event()
        self._wake = threading.Event()
        # Set to have the step in hand return soon: something more urgent was asked.
        self._interrupt = threading.Event()
        self._waiting: dict[str, tuple[str, float]] = {}
        self._targets: dict[str, int] = {}
        self._paired: set[tuple[str, str]] = set()
        self._forgotten: set[tuple[str, int]] = set()
        self._threads = [
            threading.Thread(target=self._work, name="regions"),
            threading.Thread(target=self._keep_up, name="caught-up"),
            threading.Thread(target=self._anchoring, name="anchors"),
        ]

    def start(self) -> None:
        """Go on with whatever the log says is unfinished."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the jobs between two steps; the newest head is anchored last."""
        self._ending.set()
        self._interrupt.set()
        self._wake.set()
        for thread in self._threads:
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join()

    # --- what operators ask --------------------------------------------------

    def add(
        self, asked: RegionRecord, *, principal: str, terms: Terms
    ) -> tuple[RegionRecord, Position]:
        """Log a region to be added, if it may be; the rest follows by itself."""
        self._require_primary()
        repeated = self._registry.repeated(principal, terms)
        if repeated is not None:
            return repeated
        index = self._registry.index()
        vault = self._registry.vault()
        assert vault is not None
        record = addable(
            asked,
            regions=self._registry.records(),
            vault=vault,
            own=self._own,
            now_ms=self._clock(),
        )
        if terms.validate_only:
            return record, self._registry.position()
        position = self._registry.save(
            record,
            regions_index=index,
            request=terms.mark(principal, record.to_bytes()),
        )
        self._forget_progress(record.id)
        self._peers.trust_changed()
        self._wake.set()
        return record, position

    def remove(
        self, order: RemovalOrder, *, force: bool, principal: str, terms: Terms
    ) -> tuple[RegionRecord, Position]:
        """Log that a region is being removed; the rest follows by itself."""
        self._require_primary()
        record, position = self._removal.begin(
            order, force=force, principal=principal, terms=terms
        )
        if terms.validate_only:
            return record, position
        self._interrupt.set()
        self._wake.set()
        return record, position

    def percent(self, record: RegionRecord) -> int:
        """How much of what existed when the region was added has arrived there."""
        match record.state:
            case RegionState.SUCCEEDED:
                return 100
            case RegionState.PROVISIONING:
                return min(99, self._sealing.percent(record.id))
            case _:
                return 0

    def wake(self) -> None:
        """Look again now: a region linked, or acknowledged something."""
        self._wake.set()

    # --- the operation in hand -----------------------------------------------

    def _work(self) -> None:
        pause = self._retry
        while not self._ending.is_set():
            self._wake.clear()
            self._interrupt.clear()
            again = False
            try:
                if self._reigns():
                    again = self._round()
                self._forget_purged()
                self._alarms.clear("regions")
                pause = self._retry
            except _TRANSIENT as error:
                report(Event.JOB_FAILED, job="regions", problem=str(error))
                pause = min(pause * 2, _RETRY_MAX)
            except VaultError as error:
                self._alarms.sound("regions", str(error))
                report(Event.JOB_FAILED, job="regions", problem=str(error))
                pause = min(pause * 2, _RETRY_MAX)
            if not again and not self._ending.is_set():
                self._wake.wait(pause)

    def _round(self) -> bool:
        """Take every region in flight a step further; whether there is more now."""
        moved = False
        for record in self._registry.records().values():
            if record.state not in IN_FLIGHT or record.primary:
                continue
            waiting = self._step(record)
            if waiting:
                self._wait(record, waiting)
            else:
                self._waiting.pop(record.id, None)
                moved = True
        return moved

    def _step(self, record: RegionRecord) -> str:
        """One step of one region: empty when it moved, else what it waits for."""
        match record.state:
            case RegionState.PREPROVISIONING:
                return self._prepare(record)
            case RegionState.AWAITING_CEREMONY:
                return self._hold_ceremony(record)
            case RegionState.PROVISIONING:
                return self._provision(record)
            case _:
                return self._removal.step(record.id)

    def _prepare(self, record: RegionRecord) -> str:
        greeting = self._peers.greeting(record.id)
        if greeting is None:
            return "not linked; start it: hsmvault serve"
        problem = unfit(greeting, vault_id=self._registry.vault_id)
        if problem:
            self._registry.move(record.id, RegionState.FAILED, problem=problem)
        else:
            self._registry.move(record.id, RegionState.AWAITING_CEREMONY)
        return ""

    def _hold_ceremony(self, record: RegionRecord) -> str:
        own = self._registry.records()[self._own]
        waiting = self._pair(own, self._officers, record)
        if waiting:
            return waiting
        missing = [
            p for p, has in self._workers.pair_keys(record.id).items() if not has
        ]
        if missing:
            return f"partitions {', '.join(missing)} here do not find the pair keys"
        self._registry.move(record.id, RegionState.PROVISIONING)
        return ""

    def _provision(self, record: RegionRecord) -> str:
        if not self._sealing.run(record.id, self._interrupt):
            return _SEALING
        head = self._store.head()
        assert head is not None
        target = self._targets.setdefault(record.id, head.position.index)
        mark = self._peers.watermark(record.id)
        if mark is None or mark.index < target:
            return _SENDING
        for other in self._registry.receiving():
            if other.id == record.id or (other.id, record.id) in self._paired:
                continue
            waiting = self._pair(other, self._peers.officers(other.id), record)
            if waiting:
                return waiting
            self._paired.add((other.id, record.id))
        self._registry.move(record.id, RegionState.SUCCEEDED)
        return ""

    def _pair(self, one: RegionRecord, officers: Officers, other: RegionRecord) -> str:
        """Make the pair keys of two regions; what that waits for, or empty."""
        if one.id != self._own and not self._peers.connected(one.id):
            return f"region {one.id} is not linked; its officers are needed"
        if not self._peers.connected(other.id):
            return f"region {other.id} is not linked; its officers are needed"
        theirs = self._peers.officers(other.id)
        for region, present in ((one, officers.present), (other, theirs.present)):
            if not present():
                return (
                    f"officers of region {region.id} are needed: run hsmvault ceremony "
                    "with its directory"
                )
        try:
            make_pair_keys(
                Party(one, officers),
                Party(other, theirs),
                vault_id=self._registry.vault_id,
                epoch=self._epoch(),
            )
        except _TRANSIENT:
            raise
        except (VaultError, ConfigurationError) as error:
            # Not tried again by itself: a wrong PIN, tried twice more, locks a token.
            problem = f"the ceremony failed: {error}"
            self._registry.move(other.id, RegionState.FAILED, problem=problem)
            return problem
        return ""

    def _wait(self, record: RegionRecord, waiting: str) -> None:
        if waiting in _GOING_ON:
            return
        known, since = self._waiting.get(record.id, ("", 0.0))
        if known != waiting:
            self._waiting[record.id] = waiting, time.monotonic()
        elif record.problem != waiting and time.monotonic() - since > self._shown:
            self._registry.move(record.id, record.state, problem=waiting)

    def _forget_progress(self, region: str) -> None:
        self._waiting.pop(region, None)
        self._targets.pop(region, None)
        self._paired = {pair for pair in self._paired if region not in pair}

    def _forget_purged(self) -> None:
        """Destroy pair keys with regions that are gone, here too; once is enough."""
        for record in self._registry.records().values():
            mark = record.id, record.revision
            if record.state is RegionState.PURGED and mark not in self._forgotten:
                self._workers.drop_pair_keys(record.id)
                self._forgotten.add(mark)

    # --- beside it -----------------------------------------------------------

    def _keep_up(self) -> None:
        # Fast: whoever rotated a key waits for the new version to become current.
        self._every(0.1, "caught-up", self._make_current)

    def _make_current(self) -> None:
        if self._reigns():
            self._caught_up.make_current()

    def _anchoring(self) -> None:
        self._anchors.verify(self._ending)
        self._every(self._anchor, "anchors", self._anchors.drop)
        self._anchors.drop()

    def _every(self, interval: float, job: str, work: Callable[[], object]) -> None:
        while not self._ending.wait(interval):
            try:
                work()
                self._alarms.clear(job)
            except _TRANSIENT:
                continue
            except VaultError as error:
                self._alarms.sound(job, str(error))

    def _epoch(self) -> int:
        epoch = self._store.epoch()
        assert epoch is not None
        return epoch.number

    def _reigns(self) -> bool:
        epoch = self._store.epoch()
        return epoch is not None and epoch.region == self._own

    def _require_primary(self) -> None:
        if not self._reigns():
            primary = self._registry.primary()
            raise NotPrimary(
                "regions are added and removed at the primary, {region} ({endpoint})",
                region=primary.id if primary else "unknown",
                endpoint=primary.endpoint if primary else "unknown",
            )
