"""Adding up the counters of the region at the start, and every hour after that."""

import threading
from types import TracebackType
from typing import Final, Self

from hsmvault.model.errors import VaultError
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock
from hsmvault.vault.recounting import Remembering

_SECONDS: Final = 3600.0
"""In an hour nobody encrypts so often that it would matter: 2^32 take days."""
_DRAIN_SECONDS: Final = 3.0


class Recounts:
    """A thread of its own, since what was counted may be a great deal.

    Use as a context manager: it adds up at once, and again and again.
    """

    def __init__(
        self, counters: Remembering, clock: Clock, *, seconds: float = _SECONDS
    ) -> None:
        """Start nothing yet."""
        self._counters = counters
        self._clock = clock
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recounts")
        self._thread.daemon = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_DRAIN_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if not self._counters.recount(self._clock, self._stop.is_set):
                    report(Event.COUNTERS_LOST)
            except VaultError as error:
                if not self._stop.is_set():
                    report(Event.JOB_FAILED, job="recount", problem=str(error))
            self._stop.wait(self._seconds)
