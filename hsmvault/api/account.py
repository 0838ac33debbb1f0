"""The account of a call: what is told, once, of every call that was answered.

Whoever has to know of calls (the audit trail, metrics, traces) is told by an observer
before the answer leaves, and learns nothing else of them: no request, no response.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol, Self

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


@dataclass(slots=True)
class Account:
    """One call: filled in as it becomes known, and told once it is answered.

    Nothing in it is secret, whatever was asked. Names in it may come from a caller who
    was refused: any characters, cut in length. It is one object from the call's arrival
    to its last observer, because a copy of as many fields would cost each call
    microseconds; nobody changes it once it is told.
    """

    method: str
    """`/package.Service/Method`."""
    peer: str = ""
    """As gRPC writes addresses; of a forwarded call, that of nobody."""
    via_region: str = ""
    principal: str = ""
    authentication: Authentication = Authentication.NONE
    resource: str = ""
    """What the call was about: a path, as roles have it; "" if that was not reached."""
    version: str = ""
    """The version of a key that was used, made or named."""
    request_id: str = ""
    position: str = ""
    code: str = ""
    """The name of a gRPC status code."""
    reason: str = ""
    """Of ErrorInfo; "" when the call succeeded."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """By `api.facts`: texts, numbers, truths, and lists and maps of texts."""
    items: Sequence[Item] = ()
    abandon: Callable[[], object] | None = None
    """Ends the call without an answer."""
    rest: "Rest | None" = None
    """What a stream goes on with after its first response."""
    duration_ns: int = 0
    _began_ns: int = field(default_factory=time.perf_counter_ns)

    def again(self) -> "Account":
        """Begin another account of the same caller's: that of a stream's end."""
        return Account(
            self.method,
            self.peer,
            self.via_region,
            self.principal,
            self.authentication,
            self.resource,
            abandon=self.abandon,
        )

    def end(self, code: str, reason: str = "") -> None:
        """Complete the account: the call is answered with `code`."""
        self.code, self.reason = code, reason
        self.duration_ns = time.perf_counter_ns() - self._began_ns


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
