"""What the edge needs from the other processes of this region and from other regions.

The room `local` satisfies these; mypy checks it in `server`, where they meet.
"""

from collections.abc import Sequence
from typing import Protocol

from hsmvault.model.log import Position
from hsmvault.model.orders import Terms
from hsmvault.regions.ports import Executed
from hsmvault.vault.ports import Awaited, PartitionState, RemovalOrder, ReplicationState


class Manager(Protocol):
    """The region's pool manager. Every method may raise Unavailable."""

    def forward(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        proof: bytes = b"",
        seconds: float,
    ) -> Executed:
        """Have the primary run a call on behalf of `principal`.

        `proof` is the caller's token, which the primary verifies itself, or empty.

        Raises PrimaryUnknown or PrimaryUnavailable when it certainly did not run;
        Unavailable when nobody knows.
        """

    def await_watermark(
        self, position: Position, *, regions: int, seconds: float
    ) -> Awaited:
        """Wait until so many extended regions hold `position` (-1: all of them)."""

    def replication(self) -> ReplicationState:
        """What the manager knows about its links."""

    def require_past(self, date_ms: int) -> None:
        """Raise ClockUntrusted unless a clock that can be trusted is past the date."""

    def add_region(self, record: bytes, *, principal: str, terms: Terms) -> Executed:
        """Start adding a region. `response` is the RegionRecord that was logged."""

    def remove_region(
        self, order: RemovalOrder, *, principal: str, terms: Terms
    ) -> Executed:
        """Start removing a region. `response` is the RegionRecord that was logged."""


class Tracing(Protocol):
    """Decides which calls are traced. Is an observer, too, to end what it began."""

    def begin(self, method: str, traceparent: str, /) -> None:
        """Trace the call that this thread begins to answer, if it is one of those.

        `traceparent` is what the caller sent, if anything; it may be any text.
        """


class Partitions(Protocol):
    """The partitions of this region, this one included."""

    def states(self) -> Sequence[PartitionState]:
        """How each is, in their order; those that do not answer are not serving."""
