"""Whether a date has come, by a clock that nobody has moved.

A purge cannot be taken back, and a wall clock can be set. So the wall clock is watched
by the boot clock (CLOCK_BOOTTIME: it counts suspended time, and nobody sets it): once
they are more than five minutes apart, nothing is purged until they agree for an hour,
or an operator vouches for the wall clock. What it says at the start nothing here can
watch: a day long, another region's clock has to agree.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from hsmvault.model.errors import AuditUnavailable, ClockUntrusted
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.ports import AuditTrail
from hsmvault.telemetry import Event, report
from hsmvault.vault.lasting import Boot
from hsmvault.vault.ports import Clock

DRIFT_MS_MAX: Final = 5 * 60 * 1000
"""Leap seconds and slow corrections are far less; a set clock is usually more."""
AGREEING_SECONDS: Final = 3600.0
CONFIRMED_SECONDS: Final = 24 * 3600.0
"""So long after it began, the clock needs nobody to agree."""
GAP_SECONDS_MAX: Final = 60.0
"""Unseen for longer, they are not known to have agreed meanwhile."""

_ALARM: Final = "clock"
_WAY_OUT: Final = (
    "Nothing is purged until they agree for an hour, or an operator vouches for the "
    "wall clock: hsmvault sweeper resume DIR"
)


class TrustedClock:
    """The wall clock of one region, watched. Safe to call from any thread."""

    def __init__(
        self,
        wall: Clock,
        boot: Boot,
        *,
        peers: Callable[[], Iterable[int]],
        alarms: Alarms,
        audit: AuditTrail,
    ) -> None:
        """Watch from now on. `peers`: what the linked regions' clocks say, in ms."""
        self._wall = wall
        self._boot = boot
        self._peers = peers
        self._alarms = alarms
        self._audit = audit
        self._lock = threading.RLock()
        self._problem = ""
        self._agree_since: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._since = self._seen = self._boot()
        self._offset_ms = self._wall() - int(self._since * 1000)

    def look(self) -> str:
        """Compare the clocks; why the wall clock is not trusted, or empty."""
        with self._lock:
            boot = self._boot()
            drift_ms = self._wall() - int(boot * 1000) - self._offset_ms
            gap, self._seen = boot - self._seen, boot
            if abs(drift_ms) > DRIFT_MS_MAX:
                self._distrust(drift_ms)
            elif self._problem:
                if self._agree_since is None or gap > GAP_SECONDS_MAX:
                    self._agree_since = boot
                if boot - self._agree_since >= AGREEING_SECONDS:
                    self._trust("they agreed for an hour")
            return self._problem

    def due(self, date_ms: int) -> bool:
        """Tell whether the date has come, and nothing speaks against it."""
        return not self.doubt(date_ms)

    def require_past(self, date_ms: int) -> None:
        """Raise ClockUntrusted unless the date has come, and nothing speaks against."""
        doubt = self.doubt(date_ms)
        if doubt:
            raise ClockUntrusted(
                "nothing is purged that was to be kept until {date}: {doubt}",
                date=_date(date_ms),
                doubt=doubt,
            )

    def doubt(self, date_ms: int) -> str:
        """Why it is not certain that the date has come; empty: it is."""
        with self._lock:
            problem = self.look()
            if problem:
                return problem
            if self._wall() < date_ms:
                return "that is still to come"
            left = CONFIRMED_SECONDS - (self._boot() - self._since)
            if left <= 0 or any(time >= date_ms for time in self._peers()):
                return ""
            return (
                "no linked region's clock confirms it, and for a day after the start "
                "this region's own is not believed alone; try again in "
                f"{left / 3600:.1f} h, or once another region is linked"
            )

    def vouch(self, operator: str) -> str:
        """Trust the wall clock as it is now; returns what had spoken against it.

        As after a start, what is due has to be confirmed by another region's clock, or
        wait for a day: one person with a wrong clock must not end a key.
        """
        with self._lock:
            problem = self.look()
            if problem:
                # First, and refused without it: it lets keys be ended.
                self._audit.note("clock.vouched", operator=operator, problem=problem)
                self._begin()
                self._trust(f"{operator} vouched for the wall clock")
            return problem

    def _distrust(self, drift_ms: int) -> None:
        self._agree_since = None
        ahead = "ahead of" if drift_ms > 0 else "behind"
        minutes = abs(drift_ms) // 60_000
        fresh = not self._problem
        self._problem = (
            f"the wall clock is {minutes} min {ahead} the boot clock. {_WAY_OUT}"
        )
        self._alarms.sound(_ALARM, self._problem)
        if fresh:
            report(Event.CLOCK_DISTRUSTED, problem=self._problem, drift_ms=drift_ms)
            with suppress(AuditUnavailable):
                self._audit.note("clock.distrusted", drift_ms=drift_ms)

    def _trust(self, reason: str) -> None:
        self._problem, self._agree_since = "", None
        self._alarms.clear(_ALARM)
        report(Event.CLOCK_TRUSTED, reason=reason)
        with suppress(AuditUnavailable):
            self._audit.note("clock.trusted", reason=reason)


def _date(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
