"""Having the end of this process's audit trail signed, and taken into the log."""

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from hsmvault.audit.appending import Head
from hsmvault.model.audit_records import AuditHead
from hsmvault.model.errors import IntegrityFailure, VaultError
from hsmvault.telemetry import Event, report

_DRAIN_SECONDS: Final = 3.0

Sign = Callable[[bytes], tuple[str, bytes]]
"""Returns which partition signed, and the signature."""


class Ended(Protocol):
    """Something whose end can be vouched for."""

    @property
    def process(self) -> str: ...

    def head(self) -> Head:
        """Have the disk keep everything so far, and return where that ends."""


class Heads:
    """Vouches for trails at intervals, where something was written, and at the end."""

    def __init__(
        self,
        trails: tuple[Ended, ...],
        *,
        vault_id: str,
        region: str,
        sign: Sign,
        append: Callable[[AuditHead], object],
        seconds: float,
    ) -> None:
        """Start nothing yet. `append` takes a signed head into the log."""
        self._trails = trails
        self._vault_id = vault_id
        self._region = region
        self._sign = sign
        self._append = append
        self._seconds = seconds
        self._vouched: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-heads")
        self._thread.daemon = True

    def start(self) -> None:
        """Vouch from now on."""
        self._thread.start()

    def stop(self, *, last: bool) -> None:
        """Vouch no more; a `last` time where nothing that matters comes after it."""
        self._stop.set()
        self._thread.join(_DRAIN_SECONDS)
        if last and not self._thread.is_alive():
            self.vouch()

    def vouch(self) -> None:
        """Sign and append the heads of the trails that grew since the last time."""
        for trail in self._trails:
            try:
                self._vouch(trail)
            except IntegrityFailure as error:
                report(Event.INTEGRITY_FAILED, error, subject=trail.process)
            except VaultError as error:
                # The next interval tries again, with what was written by then.
                report(Event.JOB_FAILED, job="audit heads", problem=str(error))

    def _vouch(self, trail: Ended) -> None:
        end = trail.head()
        if end.sequence == self._vouched.get(trail.process, 0):
            return
        head = AuditHead(
            self._region,
            trail.process,
            end.segment,
            end.sequence,
            end.chain,
            time.time_ns() // 1_000_000,
        )
        partition, signature = self._sign(head.statement(self._vault_id))
        self._append(head.signed(partition, signature))
        self._vouched[trail.process] = end.sequence

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.vouch()
