"""The pool manager's thread that looks at the store, and at what is due.

The store is looked at in every region; only a primary rotates and sweeps.
"""

import threading
from collections.abc import Callable

from hsmvault.model.errors import Overloaded, Unavailable, VaultError
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.clock import TrustedClock
from hsmvault.regions.due import DueKeys
from hsmvault.regions.inspection import Inspection
from hsmvault.telemetry import Event, report


class Keeping:
    """Looks at the clock and at what is due, round after round."""

    def __init__(
        self,
        due: DueKeys,
        inspection: Inspection,
        clock: TrustedClock,
        alarms: Alarms,
        *,
        reigns: Callable[[], bool],
        every: float,
    ) -> None:
        """Put it together. `every`: seconds between two rounds."""
        self._due = due
        self._inspection = inspection
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
            self._try("upkeep", self._keep)
            # Whatever keeps the one from its work does not keep the other.
            self._try("inspection", self._inspection.step)

    def _try(self, job: str, work: Callable[[], None]) -> None:
        try:
            work()
            self._alarms.clear(job)
        except (Unavailable, Overloaded) as error:
            report(Event.JOB_FAILED, job=job, problem=str(error))
        except VaultError as error:
            # Above all a record that does not verify: nothing is done by it.
            self._alarms.sound(job, str(error))
            report(Event.JOB_FAILED, job=job, problem=str(error))

    def _keep(self) -> None:
        # Also where nothing is due here: a jump has to be seen when it happens.
        self._clock.look()
        if self._reigns():
            self._due.round(self._ending.is_set)
