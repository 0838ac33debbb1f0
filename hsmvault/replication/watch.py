"""Noticing that the log has grown, whichever process of the region wrote it."""

import threading
from collections.abc import Callable
from typing import Final, Protocol

from hsmvault.model.errors import VaultError
from hsmvault.model.log import Head
from hsmvault.telemetry import Event, report

_AFTER_FAILURE: Final = 1.0
"""Seconds. A store that fails is not asked fifty times a second."""


class Growing(Protocol):
    """What is watched: the store."""

    def changed(self) -> bool: ...

    def head(self) -> Head | None: ...


class LogWatch:
    """The newest head, looked for every few milliseconds by one thread for all.

    One look costs a microsecond, so followers hear of a write within `every` seconds
    without anybody being told about it.
    """

    def __init__(self, store: Growing, *, every: float = 0.02) -> None:
        self._store = store
        self._every = every
        self._moved = threading.Condition()
        self._head: Head | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look, name="log-watch")

    def start(self) -> None:
        """Begin to look."""
        self._head = self._store.head()
        self._thread.start()

    def stop(self) -> None:
        """End; whoever waits goes on. Harmless if it has ended."""
        self._ending.set()
        self.nudge()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def head(self) -> Head | None:
        """The end of the log as last seen: at most `every` seconds old."""
        return self._head

    def wait(self, wanted: Callable[[], bool], timeout: float) -> None:
        """Wait until `wanted` holds, looked at whenever the log grew or at a nudge."""
        with self._moved:
            self._moved.wait_for(lambda: self._ending.is_set() or wanted(), timeout)

    def nudge(self) -> None:
        """Have everybody who waits look again at what else they wait for."""
        with self._moved:
            self._moved.notify_all()

    def _look(self) -> None:
        moved = True
        while not self._ending.wait(self._every):
            try:
                moved = self._store.changed() or moved
                if not moved:
                    continue
                head = self._store.head()
            except VaultError as error:
                # Busy, or a disk that is full or damaged. Whoever reads it for more
                # than its end raises an alarm; here, look again and lose nothing.
                report(Event.JOB_FAILED, job="watch", problem=str(error))
                self._ending.wait(_AFTER_FAILURE)
                continue
            moved = False
            with self._moved:
                self._head = head
                self._moved.notify_all()
