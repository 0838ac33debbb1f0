"""What becomes of keys by itself: a deleted one is purged, one with a policy rotates.

1. The store's index says which keys are due by the wall clock; no other is read.
2. Their MACs are checked, and for a purge the clock has to be trusted.
3. A partition does it as the vault itself, deciding on the record inside its write.

A crash between any two steps repeats them, and what was done is then due no more.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hsmvault.model.errors import (
    IntegrityFailure,
    NotDue,
    NotFound,
    Overloaded,
    Unavailable,
    VaultError,
)
from hsmvault.model.key_records import KeyRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Kind, Position
from hsmvault.model.stored import Row
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.clock import TrustedClock
from hsmvault.regions.ports import LogStore, Workers
from hsmvault.regions.registry import Registry
from hsmvault.telemetry import Event, report
from hsmvault.vault.lasting import Boot
from hsmvault.vault.ports import Clock
from hsmvault.vault.upkeep import Chore

PAGE: Final = 50
RETRY_SECONDS: Final = 10.0
RETRY_SECONDS_MAX: Final = 3600.0
WAITING_SECONDS: Final = 60.0
"""How soon a key is looked at again whose time it was not, after all."""
NOTED_MAX: Final = 10_000


@dataclass(slots=True)
class _Failing:
    """A key whose turn failed."""

    not_before: float
    pause: float = RETRY_SECONDS


class DueKeys:
    """Has what is due done, one key at a time, the longest due first."""

    def __init__(
        self,
        store: LogStore,
        registry: Registry,
        workers: Workers,
        *,
        clock: TrustedClock,
        wall: Clock,
        boot: Boot,
        alarms: Alarms,
    ) -> None:
        self._store = store
        self._registry = registry
        self._workers = workers
        self._clock = clock
        self._wall = wall
        self._boot = boot
        self._alarms = alarms
        self._failing: dict[tuple[Chore, str], _Failing] = {}
        self._noted: set[tuple[str, int]] = set()

    def round(self, ending: Callable[[], bool] = lambda: False) -> int:
        """Do all that is due now; returns how much was done."""
        done = 0
        seen: set[tuple[Chore, str]] = set()
        for chore, state in (
            (Chore.PURGE, KeyState.DELETED),
            (Chore.ROTATE, KeyState.ACTIVE),
        ):
            if self._clock.look():
                # A clock that ran away decides nothing; the alarm says so.
                return done
            for key in self._due(chore, state, seen):
                if ending():
                    return done
                seen.add((chore, key.resource))
                if chore is Chore.PURGE and not self._clock.due(key.purge_ms):
                    # In order: what is due later is no more certain.
                    break
                done += self._turn(chore, key)
        self._forget(seen)
        return done

    def _due(
        self, chore: Chore, state: KeyState, seen: set[tuple[Chore, str]]
    ) -> Iterator[KeyRecord]:
        now, after = self._wall(), (0, "")
        while rows := self._store.due(
            Kind.KEY, before_ms=now, state=state, after=after, limit=PAGE
        ):
            for due_ms, row in rows:
                after = due_ms, row.place
                mark = chore, row.place
                try:
                    key = self._key(row)
                except IntegrityFailure as error:
                    # Whoever edits one row must not keep all other keys for ever.
                    seen.add(mark)
                    failing = self._failing.get(mark)
                    if failing is None or self._boot() >= failing.not_before:
                        self._fail(mark, failing, error)
                    continue
                # Only the record is vouched for; the index may have been edited.
                if key.due_ms <= now:
                    yield key

    def _key(self, row: Row) -> KeyRecord:
        if row.stored is None:
            raise IntegrityFailure("{problem}", problem=row.problem)
        (checked,) = self._registry.checked([row.stored])
        return KeyRecord.from_bytes(checked.record)

    def _turn(self, chore: Chore, key: KeyRecord) -> bool:
        """Do one key's chore, unless it has just failed."""
        mark = chore, key.resource
        failing = self._failing.get(mark)
        if failing is not None and self._boot() < failing.not_before:
            return False
        if chore is Chore.ROTATE and not key.enabled:
            self._note_disabled(key)
            return False
        try:
            position = self._workers.upkeep(
                chore, key.name, incarnation=key.incarnation
            )
        except (NotDue, NotFound):
            # Somebody was first, or a version is pending: nothing is wrong.
            self._settle(mark)
            self._failing[mark] = _Failing(self._boot() + WAITING_SECONDS)
            return False
        except VaultError as error:
            self._fail(mark, failing, error)
            return False
        self._settle(mark)
        _tell(chore, key, position)
        return True

    def _fail(
        self, mark: tuple[Chore, str], failing: _Failing | None, error: VaultError
    ) -> None:
        pause = min(failing.pause * 2, RETRY_SECONDS_MAX) if failing else RETRY_SECONDS
        self._failing[mark] = _Failing(self._boot() + pause, pause)
        job = f"{mark[0]} {mark[1]}"
        report(Event.JOB_FAILED, job=job, problem=str(error))
        if not isinstance(error, (Unavailable, Overloaded)) or pause > RETRY_SECONDS:
            # What is away for a moment is no alarm; what stays away is.
            self._alarms.sound(job, f"{error} (next try in {pause:.0f} s)")

    def _settle(self, mark: tuple[Chore, str]) -> None:
        self._failing.pop(mark, None)
        self._alarms.clear(f"{mark[0]} {mark[1]}")

    def _forget(self, seen: set[tuple[Chore, str]]) -> None:
        """Let go of what is due no more: recovered, purged or rotated by somebody."""
        for mark in self._failing.keys() - seen:
            self._settle(mark)

    def _note_disabled(self, key: KeyRecord) -> None:
        noted = key.resource, key.revision
        if noted in self._noted:
            return
        if len(self._noted) >= NOTED_MAX:
            self._noted.clear()
        self._noted.add(noted)
        report(Event.ROTATION_SKIPPED, key=key.name, problem="the key is disabled")


def _tell(chore: Chore, key: KeyRecord, position: Position) -> None:
    if chore is Chore.PURGE:
        report(Event.KEY_SWEPT, key=key.name, position=str(position))
    else:
        report(Event.KEY_ROTATED, key=key.name, position=str(position))
