"""How often each may do something: a bucket per name that fills evenly.

The generic cell rate algorithm (ITU-T I.371): per name one number, the time at which
its bucket would be full again. A bucket holds one second's worth. What costs more than
is left in a bucket that is not yet empty is let through, and paid for afterwards: else
a large batch could never pass.
"""

import threading
from collections.abc import Callable
from typing import Final

SECOND_NS: Final = 1_000_000_000
NAMES_MAX: Final = 16_384


class Rates:
    """The buckets of all names. Safe to call from any thread; bounded in memory."""

    def __init__(self, clock: Callable[[], int], *, names_max: int = NAMES_MAX) -> None:
        """`clock` counts nanoseconds and never goes back."""
        self._clock = clock
        self._names_max = names_max
        self._full_at: dict[str, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, name: str, rate: int, count: int = 1) -> int:
        """Take `count` from a bucket that gets `rate` per second.

        Returns 0, or for how many nanoseconds there is nothing in it: then nothing was
        taken.
        """
        cost = SECOND_NS // rate
        now = self._clock()
        with self._lock:
            full_at = self._full_at.get(name, 0)
            full_at = max(full_at, now)
            wait = full_at + cost - now - SECOND_NS
            if wait > 0:
                return wait
            if len(self._full_at) >= self._names_max and name not in self._full_at:
                self._forget(now)
            self._full_at[name] = full_at + cost * count
        return 0

    def charge(self, name: str, rate: int, count: int) -> None:
        """Take `count` more from a bucket, whether that much is in it or not."""
        now = self._clock()
        with self._lock:
            full_at = max(self._full_at.get(name, 0), now)
            self._full_at[name] = full_at + SECOND_NS // rate * count

    def _forget(self, now: int) -> None:
        """Make room: full buckets are as good as none; else the oldest goes."""
        self._full_at = {n: at for n, at in self._full_at.items() if at > now}
        while len(self._full_at) >= self._names_max:
            del self._full_at[next(iter(self._full_at))]
