"""Vouching for the end of the log: signatures for others, anchors for ourselves."""

import threading
from collections import OrderedDict
from typing import Final

from hsmvault.model.errors import IntegrityFailure, VaultError
from hsmvault.model.log import Head, SignedHead
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.ports import LogStore, Workers
from hsmvault.telemetry import Event, report

_SIGNED_MAX: Final = 64
"""Followers are a few batches apart at most; older heads are signed again."""

_STEP: Final = 2_000
"""Entries per step of verifying the chain: some 20 ms, so that stopping is quick."""


class HeadSigner:
    """Signs each head once, however many followers are sent it."""

    def __init__(self, workers: Workers, *, vault_id: str) -> None:
        self._workers = workers
        self._vault_id = vault_id
        self._lock = threading.Lock()
        self._signed: OrderedDict[Head, SignedHead] = OrderedDict()

    def signed(self, head: Head) -> SignedHead:
        """Have a partition of this region vouch for the head."""
        with self._lock:
            known = self._signed.get(head)
        if known is not None:
            return known
        partition, signature = self._workers.sign(head.statement(self._vault_id))
        made = SignedHead(head, partition, signature)
        with self._lock:
            self._signed[head] = made
            while len(self._signed) > _SIGNED_MAX:
                self._signed.popitem(last=False)
        return made


class Anchors:
    """Keeps the newest head in the tokens, which no writer of the store can set back.

    A partition refuses to serve from a store that is behind its anchor.
    """

    def __init__(self, store: LogStore, workers: Workers, alarms: Alarms) -> None:
        self._store = store
        self._workers = workers
        self._alarms = alarms
        self._anchored: Head | None = None

    def drop(self) -> None:
        """Write the newest head, if the tokens do not have it yet."""
        try:
            head = self._store.head()
            if head is None or head == self._anchored:
                return
            self._workers.write_anchor(head)
            self._anchored = head
        except VaultError as error:
            # The older anchor stays good; the next interval tries again.
            report(Event.JOB_FAILED, job="anchor", problem=str(error))

    def verify(self, ending: threading.Event) -> None:
        """Verify the whole chain once, in steps; sound an alarm if it does not hold."""
        head = self._store.head()
        verified: Head | None = None
        while head is not None and not ending.is_set():
            try:
                verified = self._store.verify_chain(verified, limit=_STEP)
            except IntegrityFailure as error:
                self._alarms.sound("log", str(error))
                report(Event.INTEGRITY_FAILED, subject="log", problem=str(error))
                return
            if verified is None or verified.position.index >= head.position.index:
                return
