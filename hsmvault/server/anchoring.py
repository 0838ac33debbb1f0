"""The store against what the token remembers of it.

Whoever sets the whole store back to an older state, by intent or by restoring a backup,
leaves it behind the head that the tokens remember. Such a store is not served.
"""

import threading
from typing import Protocol

from hsmvault.model.errors import LogCompacted, StoreBehind, TwoHistories
from hsmvault.model.log import Head
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock
from hsmvault.vault.recounting import Remembering


class Anchor(Protocol):
    """The token's memory of the newest head."""

    def read_anchor(self) -> Head | None: ...

    def write_anchor(self, head: Head) -> None: ...


class Log(Protocol):
    """The store's log, as far as it matters here."""

    def head(self) -> Head | None: ...

    def head_at(self, index: int) -> Head | None: ...


def require_not_behind(anchor: Anchor, log: Log) -> None:
    """Raise StoreBehind, or TwoHistories, unless the store has what the token knows."""
    known = anchor.read_anchor()
    if known is None:
        return
    index = known.position.index
    try:
        there = log.head_at(index)
    except LogCompacted:
        # Its log begins with a later snapshot, which was verified when it came.
        return
    if there is None:
        head = log.head()
        raise StoreBehind(
            "the store ends at {found}, but the token remembers {known}: an older copy "
            "of the store was put in place. It is not served. Put the newest store "
            "back, or make this region anew from another one",
            found=head.position if head else "nothing",
            known=known.position,
        )
    if there.chain != known.chain:
        raise TwoHistories(
            "the store and the token disagree about position {known}: this is not the "
            "store that the region wrote. It is not served. Put its own store back",
            known=known.position,
        )


class Anchoring:
    """Keeps the token's memory near the end of the log, and near the counters."""

    def __init__(
        self, anchor: Anchor, log: Log, counters: Remembering, clock: Clock
    ) -> None:
        """Write nothing yet."""
        self._clock = clock
        self._anchor = anchor
        self._log = log
        self._counters = counters
        self._written: Head | None = None
        self._lock = threading.Lock()

    def write(self) -> None:
        """Have the token remember how things are, where it does not yet."""
        head = self._log.head()
        with self._lock:
            if head is not None and head != self._written:
                self._anchor.write_anchor(head)
                self._written = head
            if not self._counters.write(self._clock):
                report(Event.COUNTERS_LOST)
