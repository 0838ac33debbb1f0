"""The pool manager's thread that rotates and sweeps, while its region is primary."""

import threading
from collections.abc import Callable
from typing import Final

from hsmvault.model.errors import Overloaded, Unavailable, VaultError
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.clock import TrustedClock
from hsmvault.regions.due import DueKeys
from hsmvault.telemetry import Event, report

_ALARM: Final = "upkeep"


class Keeping:
    """Looks at the clock and at what is due, round after round."""

    def __init__(
        self,
        due: DueKeys,
        clock: TrustedClock,
        alarms: Alarms,
        *,
        reigns: Callable[[], bool],
        every: float,
    ) -> None:
        """Put it together. `every`: seconds between two rounds."""
        self._due = due
        self._clock = clock
        self._alarms = alarms
        self._reigns = reigns
        self._every = every
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the key in hand. Harmless if it has ended."""
        self._ending.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._ending.wait(self._every):
            try:
                self._round()
                self._alarms.clear(_ALARM)
            except (Unavailable, Overloaded) as error:
                report(Event.JOB_FAILED, job=_ALARM, problem=str(error))
            except VaultError as error:
                # Above all a record that does not verify: nothing is done by it.
                self._alarms.sound(_ALARM, str(error))
                report(Event.JOB_FAILED, job=_ALARM, problem=str(error))

    def _round(self) -> None:
        # Also where nothing is due here: a jump has to be seen when it happens.
        self._clock.look()
        if self._reigns():
            self._due.round(self._ending.is_set)
