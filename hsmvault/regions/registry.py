"""The regions as this region's own log has them, and the one way to change them."""

import dataclasses
import hmac
import threading
from collections.abc import Callable, Sequence
from typing import Final

from hsmvault.model.errors import (
    ChangedMeanwhile,
    IntegrityFailure,
    NotFound,
    NotPrimary,
    WrongState,
)
from hsmvault.model.lifecycle import RECEIVING, REGION_NEXT, RegionState
from hsmvault.model.log import Kind, Position, RequestMark
from hsmvault.model.orders import Terms
from hsmvault.model.record import Record
from hsmvault.model.records import read
from hsmvault.model.stored import StoredRecord
from hsmvault.model.vault_records import RegionRecord, VaultRecord
from hsmvault.regions.ports import AuditTrail, LogStore, Workers
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Change, Clock, Expect

_CHECKED_MAX: Final = 4096
"""Verified records that are remembered; regions and administrators are few."""

_TOLD: Final = ("state", "current", "problem")
"""What a record's entry in the audit trail says of the record."""
_ATTEMPTS: Final = 5
"""How often a change is decided again when another write came first."""


def _unmarked(_record: RegionRecord) -> None:
    """Nobody asked for it: there is nothing to repeat."""


class Registry:
    """Reads records that decide, with their MACs checked, and writes with new ones."""

    def __init__(
        self,
        store: LogStore,
        workers: Workers,
        *,
        vault_id: str,
        clock: Clock,
        audit: AuditTrail,
    ) -> None:
        self.store = store
        self.vault_id = vault_id
        self._workers = workers
        self._clock = clock
        self.audit = audit
        self._lock = threading.Lock()
        self._checked: set[tuple[bytes, bytes]] = set()

    def records(self) -> dict[str, RegionRecord]:
        """All regions by their bare ids; none before this region has a log."""
        rows = self.checked(self.store.states(Kind.REGION))
        records = [RegionRecord.from_bytes(row.record) for row in rows]
        return {record.id: record for record in records}

    def find(self, region: str) -> RegionRecord | None:
        """One region."""
        row = self.store.state(f"regions/{region}")
        if row is None:
            return None
        return RegionRecord.from_bytes(self.checked([row])[0].record)

    def index(self) -> int:
        """Index of the last change of any region; read it before what it guards."""
        return self.store.last_index([Kind.REGION])

    def primary(self) -> RegionRecord | None:
        """The region that writes the log; None before there is one."""
        return next((r for r in self.records().values() if r.primary), None)

    def receiving(self) -> list[RegionRecord]:
        """The extended regions that new versions are wrapped for."""
        return [
            r for r in self.records().values() if r.state in RECEIVING and not r.primary
        ]

    def vault(self) -> VaultRecord | None:
        """The vault's record."""
        row = self.store.state("vault")
        if row is None:
            return None
        return VaultRecord.from_bytes(self.checked([row])[0].record)

    def checked(self, rows: Sequence[StoredRecord]) -> Sequence[StoredRecord]:
        """Return the rows if all their MACs are this region's own.

        Raises IntegrityFailure. A row that was checked once is known by its bytes.
        """
        known = [(row.statement(self.vault_id), row.mac) for row in rows]
        fresh = [pair for pair in known if pair not in self._checked]
        if fresh:
            self.require(fresh)
            with self._lock:
                if len(self._checked) > _CHECKED_MAX:
                    self._checked.clear()
                self._checked.update(fresh)
        return rows

    def require(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Raise IntegrityFailure unless each statement's MAC is this region's own."""
        if not pairs:
            return
        wanted = self._workers.mac([statement for statement, _ in pairs])
        for (_, mac), own in zip(pairs, wanted, strict=True):
            if not hmac.compare_digest(mac, own):
                raise IntegrityFailure(
                    "a stored record does not carry this region's MAC; it was not "
                    "used. Restore the store, or make the region anew"
                )

    def change(self, kind: Kind, record: Record, *, revision: int) -> Change:
        """Prepare one entry: the record's bytes under a MAC of this region."""
        stored = StoredRecord(kind, record.resource, revision, record.to_bytes())
        (mac,) = self._workers.mac([stored.statement(self.vault_id)])
        return Change(dataclasses.replace(stored, mac=mac))

    def position(self) -> Position:
        """Where this region's log ends."""
        head = self.store.head()
        if head is None:
            raise NotPrimary("this region has no log yet")
        return head.position

    def repeated(
        self, principal: str, terms: Terms
    ) -> tuple[RegionRecord, Position] | None:
        """What the same request was answered before; None: it was not asked yet.

        Raises InvalidRequest when its id was used for another request.
        """
        if not terms.request_id or terms.validate_only:
            return None
        mark = self.store.request(principal, terms.method, terms.request_id)
        if mark is None:
            return None
        mark.require_repeated(terms.digest)
        return RegionRecord.from_bytes(mark.answer), self.position()

    def commit(
        self,
        changes: Sequence[Change],
        *,
        regions_index: int | None = None,
        request: RequestMark | None = None,
    ) -> Position:
        """Append, as the primary of the present epoch."""
        epoch = self.store.epoch()
        if epoch is None:
            raise NotPrimary("this region has no log yet")
        self.audit.require()
        position: Position = self.store.commit(
            changes,
            expect=Expect(epoch, regions_index=regions_index),
            time_ms=self._clock(),
            request=request,
        )
        self._record([change.stored for change in changes], position)
        return position

    def _record(self, rows: Sequence[StoredRecord], position: Position) -> None:
        """Tell the audit trail of what the pool manager changed by itself."""
        for row in rows:
            # Of heads it would never end: each record makes another head.
            if row.kind is not Kind.AUDIT_HEAD:
                facts: dict[str, object] = {
                    "position": str(position),
                    "revision": row.revision,
                }
                record = read(row.kind, row.record)
                told = {name: getattr(record, name, "") for name in _TOLD}
                self.audit.note(
                    f"{row.kind}.changed",
                    f"/{row.resource}",
                    **facts,
                    **{name: fact for name, fact in told.items() if fact},
                )

    def save(
        self,
        record: RegionRecord,
        *,
        regions_index: int | None = None,
        request: RequestMark | None = None,
    ) -> Position:
        """Append a region's record; its revision must be the next one."""
        change = self.change(Kind.REGION, record, revision=record.revision)
        position = self.commit([change], regions_index=regions_index, request=request)
        report(
            Event.REGION_STATE_CHANGED,
            subject=record.id,
            state=record.state,
            problem=record.problem,
            position=str(position),
        )
        return position

    def move(
        self,
        region: str,
        state: RegionState,
        *,
        problem: str = "",
        request: Callable[[RegionRecord], RequestMark | None] = _unmarked,
    ) -> tuple[RegionRecord, Position | None]:
        """Take a region to a state (or set what it waits for); no entry if it is so.

        Raises WrongState for a move that the life of regions does not have.
        """
        for _ in range(_ATTEMPTS):
            record = self.find(region)
            if record is None:
                raise NotFound("regions/{region} does not exist", region=region)
            if (record.state, record.problem) == (state, problem):
                return record, None
            if state not in {record.state, *REGION_NEXT[record.state]}:
                raise WrongState(
                    "regions/{region} is {state}, so it cannot become {wanted}",
                    region=region,
                    state=record.state,
                    wanted=state,
                )
            moved = dataclasses.replace(
                record,
                revision=record.revision + 1,
                state=state,
                problem=problem,
                update_ms=self._clock(),
            )
            try:
                return moved, self.save(moved, request=request(moved))
            except ChangedMeanwhile:
                continue
        raise ChangedMeanwhile("regions/{region} keeps changing", region=region)
