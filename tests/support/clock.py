"""A clock for tests to set."""

from dataclasses import dataclass
from typing import Final

START_MS: Final = 1_800_000_000_000


@dataclass
class Clock:
    """A wall clock that stands still until it is moved, in ms since 1970."""

    now_ms: int = START_MS

    def __call__(self) -> int:
        return self.now_ms
