"""Counting what each key version encrypted by GCM, before it encrypts.

Invocations are taken from the region's share in blocks, durably, and then given out one
by one from memory: a crash loses what was taken and not used, and never counts less
than what was done.
"""

import threading
from typing import Final, Protocol

from hsmvault.model.errors import IntegrityFailure, InvocationsExhausted, Overloaded
from hsmvault.model.invocations import next_block, share, statement
from hsmvault.vault.memory import Memory
from hsmvault.vault.plan import Plan
from hsmvault.vault.ports import Clock, CounterStore

KNOWN_MAX: Final = 16_384
"""Versions whose blocks are held: some 4 MiB. Beyond it the oldest block is lost."""
ATTEMPTS: Final = 50
"""How often a block is tried for that other processes take first."""
SKEW_MS: Final = 5 * 60 * 1000
"""How far the clocks of regions may be apart: versions carry their author's."""


class TokenMemory(Protocol):
    """What a token remembers of the counters, so that an old copy is noticed."""

    def read_generation(self) -> int:
        """The newest generation that was written; 0: none."""

    def write_generation(self, generation: int) -> None:
        """Remember it; never goes back."""


class _Block:
    """What is left of the invocations that were taken for one version."""

    __slots__ = ("left", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.left = size


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
                    self._take(plan, former=block.size if block else 0)

    def _left(self, version: str) -> int:
        block = self._blocks.get(version)
        return block.left if block else 0

    def _take(self, plan: Plan, *, former: int) -> None:
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
            taken = self._taken(version)
            size = min(next_block(memory.ordinal, former), allowed - taken)
            if size <= 0:
                raise InvocationsExhausted(
                    "{name} has encrypted in region {region} as often as it may there, "
                    "{allowed} times: more would make equal IVs likely. Rotate it: "
                    "hsmvault key rotate",
                    name=plan.name,
                    region=memory.region,
                    allowed=allowed,
                )
            (mac,) = memory.hsm.mac([self._statement(version, taken + size)])
            if self._counters.advance(version, taken, taken + size, mac):
                with self._lock:
                    self._blocks.pop(version, None)
                    self._blocks[version] = _Block(size)
                    while len(self._blocks) > KNOWN_MAX:
                        del self._blocks[next(iter(self._blocks))]
                return
        raise Overloaded("too many processes count {name} at once", name=plan.name)

    def _taken(self, version: str) -> int:
        row = self._counters.taken(version)
        if row is None:
            return 0
        taken, mac = row
        try:
            self._memory.hsm.check_macs([(self._statement(version, taken), mac)])
        except IntegrityFailure as error:
            raise IntegrityFailure(
                "the counter of version {version} was not written by this region's "
                "HSM; it does not encrypt here. Rotate its key: hsmvault key rotate",
                version=version,
            ) from error
        return taken

    def _statement(self, version: str, taken: int) -> bytes:
        memory = self._memory
        return statement(memory.vault.vault_id, memory.region, version, taken)


class Remembering:
    """Holds the counters against what the token remembers of them."""

    def __init__(self, counters: CounterStore, token: TokenMemory) -> None:
        self._counters = counters
        self._token = token
        self._written = -1

    def compare(self, clock: Clock) -> bool:
        """Tell whether the counters are all there; if not, have that kept.

        A file that was deleted or set back counts too little. From then on versions
        that were made before do not encrypt by GCM here, until their keys are rotated.
        """
        known = self._token.read_generation()
        if self._counters.generation() >= known:
            return True
        self._counters.lose(at_ms=clock(), generation=known + 1)
        return False

    def write(self, clock: Clock) -> bool:
        """Have the token remember how far the counters have come.

        Tells, and keeps, as `compare` does, when they were set back meanwhile: else
        they could catch up with the token before anybody starts and compares again.
        """
        generation = self._counters.generation()
        if generation < self._written:
            return self.compare(clock)
        if generation != self._written:
            self._token.write_generation(generation)
            self._written = generation
        return True
