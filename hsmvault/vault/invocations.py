"""Counting what each key version encrypted by GCM, before it encrypts.

Invocations are taken from the region's share in blocks, durably, and then given out one
by one from memory: a crash loses what was taken and not used, and never counts less
than what was done.
"""

import threading
from typing import Final

from hsmvault.model.errors import IntegrityFailure, InvocationsExhausted, Overloaded
from hsmvault.model.invocations import Count, next_block, share, statement
from hsmvault.vault.memory import Memory
from hsmvault.vault.plan import Plan
from hsmvault.vault.ports import CounterStore

KNOWN_MAX: Final = 16_384
"""Versions whose blocks are held: some 4 MiB. Beyond it the oldest block is lost."""
ATTEMPTS: Final = 50
"""How often a block is tried for that other processes take first."""
SKEW_MS: Final = 5 * 60 * 1000
"""How far the clocks of regions may be apart: versions carry their author's."""


class _Block:
    """What is left of the invocations that were taken for one version."""

    __slots__ = ("left", "size", "upto")

    def __init__(self, size: int, upto: int) -> None:
        self.size = size
        self.left = size
        self.upto = upto
        """What had been taken with it: nobody has taken less since."""


class Invocations:
    """The counts of one region, in one process. Safe to call from any thread."""

    def __init__(
        self, counters: CounterStore, memory: Memory, *, shift: int = 0
    ) -> None:
        """Cut every share to 2^-`shift` of itself: a smaller one is as safe."""
        self._counters = counters
        self._memory = memory
        self._shift = shift
        self._blocks: dict[str, _Block] = {}
        self._lock = threading.Lock()
        self._taking = threading.Lock()

    def count(self, plan: Plan) -> None:
        """Count one encryption that is about to be, or raise InvocationsExhausted."""
        version = plan.material.version
        while True:
            with self._lock:
                block = self._blocks.get(version)
                if block is not None and block.left:
                    block.left -= 1
                    return
            with self._taking:
                # Unless another thread has taken some meanwhile.
                if self._blocks.get(version) is block or not self._left(version):
                    self._take(plan, block)

    def _left(self, version: str) -> int:
        block = self._blocks.get(version)
        return block.left if block else 0

    def _take(self, plan: Plan, former: _Block | None) -> None:
        memory, version = self._memory, plan.material.version
        allowed = share(memory.ordinal) >> self._shift
        if plan.create_ms <= self._counters.lost_ms() + SKEW_MS:
            raise InvocationsExhausted(
                "how often {name} encrypted in region {region} is not known any more: "
                "its counters were lost or set back. Rotate it: hsmvault key rotate",
                name=plan.name,
                region=memory.region,
            )
        for _ in range(ATTEMPTS):
            count = self._count(version, former.upto if former else 0)
            taken = count.taken
            size = next_block(memory.ordinal, former.size if former else 0)
            size = min(size, allowed - taken)
            if size <= 0:
                raise InvocationsExhausted(
                    "{name} has encrypted in region {region} as often as it may there, "
                    "{allowed} times: more would make equal IVs likely. Rotate it: "
                    "hsmvault key rotate",
                    name=plan.name,
                    region=memory.region,
                    allowed=allowed,
                )
            upto, times = taken + size, count.times + 1
            (mac,) = memory.hsm.mac([self._statement(version, upto, times)])
            if self._counters.advance(version, taken, Count(upto, times, mac)):
                with self._lock:
                    self._blocks.pop(version, None)
                    self._blocks[version] = _Block(size, upto)
                    while len(self._blocks) > KNOWN_MAX:
                        del self._blocks[next(iter(self._blocks))]
                return
        raise Overloaded("too many processes count {name} at once", name=plan.name)

    def _count(self, version: str, upto: int) -> Count:
        count = self._counters.taken(version)
        if (count.taken if count else 0) < upto:
            raise IntegrityFailure(
                "the counter of version {version} was set back or deleted while it was "
                "used; it does not encrypt here. Rotate its key: hsmvault key rotate",
                version=version,
            )
        if count is None:
            return Count(0, 0, b"")
        said = self._statement(version, count.taken, count.times)
        try:
            self._memory.hsm.check_macs([(said, count.mac)])
        except IntegrityFailure as error:
            raise IntegrityFailure(
                "the counter of version {version} was not written by this region's "
                "HSM; it does not encrypt here. Rotate its key: hsmvault key rotate",
                version=version,
            ) from error
        return count

    def _statement(self, version: str, taken: int, times: int) -> bytes:
        memory = self._memory
        return statement(memory.vault.vault_id, memory.region, version, taken, times)
