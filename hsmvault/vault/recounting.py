"""Whether the counts of a region are all there, and as it wrote them.

Each count says, under its MAC, in how many blocks it was taken; all of these, and what
is known to be missing, are as many as blocks were ever taken; and how many those are
the token remembers. So a row that was deleted or put back is noticed by adding up, an
old copy of the whole file by the token. Then what is there is kept, and versions that
were made before do not encrypt by GCM here, until their keys are rotated.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hsmvault.model.errors import IntegrityFailure, Overloaded, Unavailable
from hsmvault.model.invocations import (
    SINCE,
    Count,
    Reckoning,
    former_statement,
    missing_statement,
    statement,
)
from hsmvault.vault.ports import Clock, CounterStore

ATTEMPTS: Final = 50
"""How often it is added up anew because processes counted meanwhile."""

_Pairs = Sequence[tuple[bytes, bytes]]


class TokenMemory(Protocol):
    """What a token remembers of the counters, so that an old copy is noticed."""

    def read_generation(self) -> int:
        """The newest generation that was written; 0: none."""

    def write_generation(self, generation: int) -> None:
        """Remember it; never goes back."""

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        """MAC each statement with the region's integrity key."""

    def check_macs(self, pairs: _Pairs) -> None:
        """Check (statement, mac) pairs. Raises IntegrityFailure."""


class Remembering:
    """Holds the counters against themselves, and against what the token remembers."""

    def __init__(
        self, counters: CounterStore, token: TokenMemory, *, vault_id: str, region: str
    ) -> None:
        self._counters = counters
        self._token = token
        self._who = (vault_id, region)
        self._written = -1

    def compare(self, clock: Clock) -> bool:
        """Tell whether the counters are not behind the token; begins new ones.

        If they are, that is kept: a file that was deleted or set back counts too
        little. Those of an earlier release are taken over as they are.
        """
        known, generation = self._token.read_generation(), self._counters.generation()
        if known < SINCE and generation < SINCE:
            return self._begin(known, clock)
        return generation >= known or self.recount(clock)

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

    def recount(self, clock: Clock, ending: Callable[[], bool] = lambda: False) -> bool:
        """Tell whether all counts are there, by checking each; if not, keep that.

        Takes as long as it takes to check a MAC for each version that ever encrypted.
        """
        for _ in range(ATTEMPTS):
            known = self._token.read_generation()
            survey = _Survey(self._token, self._who, ending)
            told = self._counters.survey(survey.see)
            missing = self._believed(told)
            seen = told.generation
            if not survey.foreign and survey.times + missing == seen >= known:
                return True
            # Beyond both, so that nobody takes what is here now for what was lost.
            reckoning = self._reckoned(max(seen, known) + 1, survey.times)
            if self._counters.settle(
                reckoning, seen=seen, lost_ms=clock(), drop=survey.foreign
            ):
                return False
        raise Overloaded("the counters change too fast to be added up")

    def _begin(self, known: int, clock: Clock) -> bool:
        """Begin to add up: from nothing, or from what an earlier release counted."""
        while (seen := self._counters.generation()) < SINCE:
            rows = self._counters.former()
            said = [(former_statement(*self._who, v, t), m) for v, t, m in rows]
            foreign = _foreign(self._token, said)
            good = [
                (version, taken)
                for (version, taken, _), (statement_, _) in zip(rows, said, strict=True)
                if statement_ not in foreign
            ]
            macs = self._token.mac([statement(*self._who, v, t, 1) for v, t in good])
            add = [
                (version, Count(taken, 1, mac))
                for (version, taken), mac in zip(good, macs, strict=True)
            ]
            lost = seen < known or bool(foreign)
            reckoning = self._reckoned(SINCE + max(seen, known) + lost, len(add))
            lost_ms = clock() if lost else 0
            if self._counters.settle(reckoning, seen=seen, lost_ms=lost_ms, add=add):
                return not lost
        # Another partition's process did it.
        return True

    def _reckoned(self, generation: int, times: int) -> Reckoning:
        missing = generation - times
        (mac,) = self._token.mac([missing_statement(*self._who, missing)])
        return Reckoning(generation, missing, mac)

    def _believed(self, told: Reckoning) -> int:
        said = missing_statement(*self._who, told.missing)
        return 0 if _foreign(self._token, [(said, told.mac)]) else told.missing


class _Survey:
    """Adds up the counts whose MAC is the region's own."""

    def __init__(
        self, token: TokenMemory, who: tuple[str, str], ending: Callable[[], bool]
    ) -> None:
        self._token = token
        self._who = who
        self._ending = ending
        self.times = 0
        self.foreign: list[str] = []

    def see(self, page: Sequence[tuple[str, Count]]) -> None:
        if self._ending():
            raise Unavailable("the process ends")
        said = [statement(*self._who, v, one.taken, one.times) for v, one in page]
        pairs = [(s, one.mac) for s, (_, one) in zip(said, page, strict=True)]
        foreign = _foreign(self._token, pairs)
        for one, (version, count) in zip(said, page, strict=True):
            if one in foreign:
                self.foreign.append(version)
            else:
                self.times += count.times


def _foreign(token: TokenMemory, pairs: _Pairs) -> set[bytes]:
    """Statements whose MAC is not this region's."""
    if not pairs:
        return set()
    try:
        token.check_macs(pairs)
    except IntegrityFailure:
        if len(pairs) == 1:
            return {pairs[0][0]}
        half = len(pairs) // 2
        return _foreign(token, pairs[:half]) | _foreign(token, pairs[half:])
    return set()
