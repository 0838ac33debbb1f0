"""A clock for retentions: it may run ahead, and cannot be set back."""

import time
from collections.abc import Callable
from typing import Final, Self

from hsmvault.model.errors import LogCompacted
from hsmvault.vault.ports import Clock, Store

Boot = Callable[[], float]
"""Seconds since the machine was started, suspended time included (CLOCK_BOOTTIME)."""

_MS: Final = 1000


def boot_seconds() -> float:
    """Read the boot clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LastingClock:
    """The wall clock, or what it said at the start and the time since, if that is more.

    Whoever sets the clock back, deletes a key and sets the clock right would otherwise
    see the key's retention end early. It begins no earlier than the newest entry of the
    log, so that starting the process again does not help either.
    """

    def __init__(self, wall: Clock, boot: Boot, *, newest_ms: int = 0) -> None:
        """Begin; `newest_ms`: when the log was last written."""
        self._wall = wall
        self._boot = boot
        self._began_ms = max(wall(), newest_ms) - int(boot() * _MS)

    @classmethod
    def of(cls, store: Store, wall: Clock, boot: Boot) -> Self:
        """Begin no earlier than the newest entry of the store's log."""
        return cls(wall, boot, newest_ms=_newest_ms(store))

    def __call__(self) -> int:
        """Unix time in milliseconds."""
        return max(self._wall(), self._began_ms + int(self._boot() * _MS))


def _newest_ms(store: Store) -> int:
    """When the newest entry of the log was written, by its author's clock; 0: never."""
    head = store.head()
    if head is None:
        return 0
    try:
        entries = store.entries(head.position.index - 1, limit=1)
    except LogCompacted:
        return 0
    return entries[0].time_ms if entries else 0
