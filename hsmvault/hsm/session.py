"""Sessions with the token, leased one operation at a time.

The session given back last is leased first: under light load one session does all the
work, and holds all the open keys.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from pkcs11 import PKCS11Error

from hsmvault.hsm.opened import OpenKeys
from hsmvault.model.errors import NoFreeSession, PartitionLost

CALL_SECONDS: Final = 10.0
"""How long a call may take before the partition counts as hung."""

GENERATION_SECONDS: Final = 60.0
"""The same for generating RSA keys: 4096 bit took 8 s on two shared cores."""


def gone() -> PartitionLost:
    """What callers are told; what the token said, of which key, is for operators."""
    return PartitionLost("the HSM of this partition is gone; ask another partition")


class Doing(StrEnum):
    """What a session is at, for whoever has to explain a failure."""

    USING = "using"
    DECRYPTING = "decrypting"
    """Working on bytes that came from a caller, and may be bad."""
    OPENING = "opening"
    """Unwrapping a stored key."""
    IMPORTING = "importing"
    """Unwrapping a key that comes from outside, and may be anything."""


class Session:
    """One PKCS#11 session, and all that lives and dies with it."""

    __slots__ = ("doing", "forgotten", "keys", "limit", "opened", "raw", "since")

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.opened: Final = OpenKeys()
        self.keys: dict[str, Any] = {}
        """Installed keys found in this session, by label."""
        self.doing = Doing.USING
        self.since = 0.0
        """When the operation in flight began, by the monotonic clock; 0: none is."""
        self.limit = CALL_SECONDS
        self.forgotten: Final = deque[str]()
        """Versions to drop before the next use. Other threads only ever append."""

    def drop_forgotten(self) -> None:
        """Destroy what was asked to be forgotten. Only by whoever leases it."""
        while self.forgotten:
            self.opened.drop(self.forgotten.popleft())

    def renew(self, raw: Any) -> None:
        """Go on with a fresh session; all that lived in the old one is gone."""
        old, self.raw = self.raw, raw
        self.opened.abandon()
        self.keys = {}
        try:
            old.close()
        except PKCS11Error:
            # It was given up because it failed; its end may fail as well.
            return


class Sessions:
    """The sessions of one partition. Safe to call from any thread."""

    def __init__(
        self, sessions: Iterable[Session], *, open_keys: int, patience: float
    ) -> None:
        """Share `open_keys` among the sessions; wait `patience` seconds for one."""
        self._all: Final = tuple(sessions)
        self._idle: Final = list(self._all)
        self._open_keys: Final = open_keys
        self._patience: Final = patience
        self._freed: Final = threading.Condition()
        self._waiting = 0
        self.lost = ""
        """Why no session is leased any more; empty while all is well."""

    def __len__(self) -> int:
        return len(self._all)

    def take(self, limit: float = CALL_SECONDS) -> Session:
        """Lease a session, or raise NoFreeSession when none was given back in time."""
        if self.lost:
            raise gone()
        # pop and append of a list are atomic; nothing is locked until one has to wait.
        try:
            session = self._idle.pop()
        except IndexError:
            session = self._wait()
        if session.forgotten:
            session.drop_forgotten()
        session.limit = limit
        session.since = time.monotonic()
        return session

    def give(self, session: Session) -> None:
        """End the lease."""
        session.since = 0.0
        if session.forgotten:
            session.drop_forgotten()
        self._idle.append(session)
        # Whoever waits counts itself before it looks at the idle ones a last time, so
        # either it is seen here or it sees this session.
        if self._waiting:
            with self._freed:
                self._freed.notify()

    def _wait(self) -> Session:
        deadline = time.monotonic() + self._patience
        with self._freed:
            self._waiting += 1
            try:
                while True:
                    if self._idle:
                        # Another thread may pop it first, without this lock.
                        try:
                            return self._idle.pop()
                        except IndexError:
                            continue
                    if not self._freed.wait(deadline - time.monotonic()):
                        raise NoFreeSession(
                            "all {count} sessions of the partition stayed busy for "
                            "{seconds} s; retry, or raise `sessions` in region.toml",
                            count=len(self._all),
                            seconds=self._patience,
                        )
            finally:
                self._waiting -= 1

    def forget(self, versions: Iterable[str]) -> None:
        """Have every session drop these; those in use do when their call has ended."""
        versions = list(versions)
        for session in self._all:
            session.forgotten.extend(versions)
        for session in tuple(self._idle):
            if self._borrow(session):
                self.give(session)

    def make_room(self, session: Session) -> None:
        """Destroy keys unused for long until one more fits, on behalf of its lessee.

        Sessions that are idle have the keys to spare. While all are busy, each may be
        over by the one key that it works with.
        """
        while self.open_keys >= self._open_keys:
            for spare in tuple(self._idle):
                if spare.opened and self._borrow(spare):
                    spare.opened.drop_oldest()
                    self.give(spare)
                    break
            else:
                session.opened.drop_oldest()
                return

    def _borrow(self, session: Session) -> bool:
        """Lease this very session, unless somebody else just did."""
        try:
            self._idle.remove(session)
        except ValueError:
            return False
        return True

    def forget_installed(self) -> None:
        """Have every session find the installed keys anew."""
        for session in self._all:
            session.keys = {}

    @property
    def idle(self) -> int:
        """How many sessions are not leased now."""
        return len(self._idle)

    @property
    def open_keys(self) -> int:
        """How many keys are open in all sessions."""
        return sum(len(s.opened) for s in self._all)

    def oldest_call(self) -> float:
        """Age in seconds of the oldest call in flight; 0 when there is none."""
        begun = [since for s in self._all if (since := s.since)]
        return time.monotonic() - min(begun) if begun else 0.0

    def overdue(self) -> bool:
        """Tell whether some call in flight is older than it may become."""
        now = time.monotonic()
        return any((since := s.since) and now - since > s.limit for s in self._all)
