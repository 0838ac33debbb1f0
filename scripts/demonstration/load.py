"""A client that signs in a loop, and keeps a record of when and where it was served."""

import itertools
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import hsmvault
from hsmvault.model.errors import VaultError
from scripts.demonstration.keys import EC

DIGEST = bytes(range(32))

PAUSE = 0.004
"""Seconds between two calls of a thread: the regions share this machine with us."""


@dataclass
class Load:
    """Signs in several threads until it is left. What it saw is in the fields."""

    vault: hsmvault.Vault
    threads: int = 3
    served: list[tuple[float, str, str]] = field(default_factory=list)
    """When, and by which region and partition: in order of the answers."""
    failures: list[str] = field(default_factory=list)
    _running: list[threading.Thread] = field(default_factory=list)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._running = [
            threading.Thread(target=self._run) for _ in range(self.threads)
        ]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        for thread in self._running:
            thread.join()

    def _run(self) -> None:
        while not self._done.is_set():
            time.sleep(PAUSE)
            try:
                served = self.vault.sign(EC, "ES256", digest=DIGEST).served
            except VaultError as error:
                self.failures.append(str(error))
            else:
                self.served.append((time.monotonic(), served.region, served.partition))

    def by(self, region: str, partition: str = "", *, since: float = 0.0) -> int:
        """Count the answers of a region, or of one of its partitions."""
        return sum(
            r == region and partition in {"", p} and at > since
            for at, r, p in self.served
        )

    def gap(self, since: float) -> float:
        """Return the longest time without any answer, from `since` on."""
        times = [since, *(t for t, _, _ in self.served if t > since)]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)
