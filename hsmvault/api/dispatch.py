"""What the parts of the edge share: a call that was let in, and an RPC's endpoint."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import Message

from hsmvault import telemetry
from hsmvault.api import convert
from hsmvault.api.account import Account
from hsmvault.api.facts import Telling
from hsmvault.api.permissions import Rule
from hsmvault.model.errors import AccessDenied, IntegrityFailure, VaultError
from hsmvault.telemetry import Event
from hsmvault.vault.view import Caller, View
from hsmvault.vault.writing import Request

WAIT_SECONDS: Final = 10.0
"""How long a call without a deadline waits."""
WAIT_SECONDS_MAX: Final = 60.0
MARGIN_SECONDS: Final = 0.1
MARGIN_SHARE: Final = 20
"""Taken from the caller's deadline, so that our answer still arrives: this much, or a
20th of it, as who gives more time may be on a busy machine."""
MIN_POSITION: Final = "min-position"


@dataclass(slots=True)
class Call:
    """One call that was let in: what a servicer may know of it besides the request."""

    method: str
    view: View
    principal: str
    rule: Rule
    resource: str
    seconds: float
    """How long it may wait."""
    told: Account
    """What will be told of it."""
    via_region: str = ""
    proof: bytes = field(default=b"", repr=False)
    """The caller's token, where they showed one: what a forwarded call goes with."""
    wanted: Callable[[], bool] = lambda: True
    """Whether the caller still waits for the answer."""

    look: Callable[[], View] | None = None
    """For a stream: what holds now; raises when the caller may not be served more."""

    @property
    def caller(self) -> Caller:
        """Who asks, for decisions that are made again inside a write."""
        return Caller(
            self.principal, self.rule.permission, self.resource, self.via_region
        )

    def permits(self, resource: str) -> bool:
        """Tell whether the caller holds the RPC's plain permission at `resource`."""
        return self.view.access.permits(
            self.principal, self.rule.permission, resource, self.via_region
        )


class Servicer(Protocol):
    """One RPC's body: parse, call the vault, convert."""

    def __call__(self, request: Any, call: Call, /) -> Message: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One RPC: its rule, its messages, its body, and what is told of it."""

    method: str
    rule: Rule
    request: type[Message]
    response: type[Message]
    serve: Servicer
    telling: Telling
    streams: bool = False
    """Answers with a stream; the servicer leaves its rest in `Call.told`."""
    trailing: bool = True
    """Region, partition and position go into trailing metadata, not the message's
    field `served`."""


def requested(request: Any, call: Call) -> Request:
    """Return who wants this mutation, and under which id it may be repeated."""
    id_ = convert.request_id(request.request_id)
    digest = b""
    if id_:
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    return Request(call.caller, call.method, digest, id_, request.validate_only)


def validates_only(request: Any) -> bool:
    """Tell whether the caller wants to know only what would happen."""
    fields = request.DESCRIPTOR.fields_by_name
    return "validate_only" in fields and bool(request.validate_only)


def say_nothing_happened(response: Any) -> None:
    """Take out of a validated write's response what never came to be."""
    # Nobody may wait for a position, or build on an etag, that never came to be.
    for name in {"position", "etag"} & set(response.DESCRIPTOR.fields_by_name):
        response.ClearField(name)


def report(error: VaultError, method: str) -> None:
    """Tell the operator of what is not the caller's business alone."""
    if isinstance(error, IntegrityFailure):
        telemetry.report(Event.INTEGRITY_FAILED, error, method=method)
    elif isinstance(error, AccessDenied):
        telemetry.report(Event.CALL_DENIED, None, method=method, **error.facts)


def discarded(endpoint: Endpoint, raw: bytes, known: Message) -> bool:
    """Tell whether a request had fields that `known` of it does not have."""
    return endpoint.request.FromString(raw).ByteSize() != known.ByteSize()


def seconds_left(context: grpc.ServicerContext) -> float:
    """Return how long a call may wait for something: less than its caller does."""
    left = context.time_remaining()
    if left == math.inf:
        return WAIT_SECONDS
    margin = max(MARGIN_SECONDS, left / MARGIN_SHARE)
    return min(max(left - margin, 0.0), WAIT_SECONDS_MAX)
