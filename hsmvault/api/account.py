"""The account of a call: what is told, once, of every call that was answered.

Whoever has to know of calls (the audit trail, metrics, traces) is told by an observer
before the answer leaves, and learns nothing else of them: no request, no response.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, Self

from google.protobuf.message import Message

OK: Final = "OK"


class Authentication(StrEnum):
    """What the principal's name rests on."""

    NONE = "none"
    """There is no principal: the call was refused before, or for that."""
    MTLS = "mtls"
    JWT = "jwt"
    REGION = "region"
    """The word of the region that forwarded the call."""


@dataclass(frozen=True, slots=True)
class Item:
    """How one item of a batch ended."""

    operation: str
    version: str
    """The version that was used; what the item named, if none was."""
    code: str
    reason: str
    facts: Mapping[str, object]


class Account(NamedTuple):
    """One answered call. Nothing in it is secret, whatever was asked.

    Names in it may come from a caller who was refused: any characters, cut in length.
    A tuple, because a frozen dataclass of as many fields takes four times as long.
    """

    method: str
    """`/package.Service/Method`."""
    started_ns: int
    """Unix time."""
    duration_ns: int
    principal: str
    authentication: Authentication
    peer: str
    """As gRPC writes addresses; of a forwarded call, that of nobody."""
    via_region: str
    resource: str
    """What the call was about: a path, as roles have it; "" if that was not reached."""
    version: str
    """The version of a key that was used, made or named."""
    request_id: str
    position: str
    code: str
    """The name of a gRPC status code."""
    reason: str
    """Of ErrorInfo; "" when the call succeeded."""
    facts: Mapping[str, object]
    """By `api.facts`: texts, numbers, truths, and lists and maps of texts."""
    items: Sequence[Item]


class Observer(Protocol):
    """Who is told of every answered call. Is quick, and does not fail."""

    def __call__(self, account: Account, /) -> None: ...


class Rest(Protocol):
    """The responses of a stream after its first one."""

    @property
    def position(self) -> str:
        """What the stream has come to."""

    def __iter__(self) -> Self: ...

    def __next__(self) -> Message: ...

    def give_up(self) -> None:
        """Let go of what others could have; the next response may be the last.

        From any thread, while another one waits for a response, and more than once.
        """

    def close(self) -> None:
        """Let go of what it holds. By the thread that reads."""


@dataclass(slots=True)
class Underway:
    """A call whose account is not complete yet: filled in as it becomes known."""

    method: str
    peer: str = ""
    via_region: str = ""
    principal: str = ""
    authentication: Authentication = Authentication.NONE
    resource: str = ""
    version: str = ""
    request_id: str = ""
    position: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)
    abandon: Callable[[], object] | None = None
    """Ends the call without an answer."""
    items: Sequence[Item] = ()
    rest: "Rest | None" = None
    """What a stream goes on with after its first response."""
    _started_ns: int = field(default_factory=time.time_ns)
    _began_ns: int = field(default_factory=time.perf_counter_ns)

    def again(self) -> "Underway":
        """Begin another account of the same caller's: that of a stream's end."""
        return Underway(
            self.method,
            self.peer,
            self.via_region,
            self.principal,
            self.authentication,
            self.resource,
            abandon=self.abandon,
        )

    def ended(self, code: str, reason: str = "") -> Account:
        """Complete the account: the call is answered with `code`."""
        # By position, in their order: this is on the path of every call.
        return Account(
            self.method,
            self._started_ns,
            time.perf_counter_ns() - self._began_ns,
            self.principal,
            self.authentication,
            self.peer,
            self.via_region,
            self.resource,
            self.version,
            self.request_id,
            self.position,
            code,
            reason,
            self.facts,
            self.items,
        )
