"""One guard around every RPC: who, is the copy fresh, may they, then the call.

Everything runs in this order: identity → memory not older than the store → position
asked for → name well formed → permission → (existence and all else, in the vault).
A plain function instead of gRPC interceptors, which cost several times as much.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError, Message

from hsmvault import telemetry
from hsmvault.api import convert
from hsmvault.api.forwarding import Refused, Writes
from hsmvault.api.identity import identify
from hsmvault.api.permissions import Rule, Write
from hsmvault.api.status import abort, status_of, status_of_bug
from hsmvault.model.errors import (
    AccessDenied,
    IntegrityFailure,
    InvalidRequest,
    TooLarge,
    VaultError,
)
from hsmvault.model.log import Position
from hsmvault.regions.ports import Executed
from hsmvault.telemetry import Event
from hsmvault.vault.memory import Memory
from hsmvault.vault.view import Caller, View
from hsmvault.vault.writing import Request

WAIT_SECONDS: Final = 10.0
"""How long a call without a deadline waits."""
WAIT_SECONDS_MAX: Final = 60.0
MARGIN_SECONDS: Final = 0.1
"""Taken from the caller's deadline, so that our answer still arrives."""
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
    via_region: str = ""
    wanted: Callable[[], bool] = lambda: True
    """Whether the caller still waits for the answer."""

    @property
    def caller(self) -> Caller:
        """Who asks, for decisions that are made again inside a write."""
        return Caller(
            self.principal, self.rule.permission, self.resource, self.via_region
        )

    def permits(self, resource: str) -> bool:
        """Tell whether the caller holds the RPC's plain permission at `resource`."""
        return self.view.access.permits(self.principal, self.rule.permission, resource)


class Servicer(Protocol):
    """One RPC's body: parse, call the vault, convert."""

    def __call__(self, request: Any, call: Call, /) -> Message: ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One RPC: its rule, its request's type, and its body."""

    method: str
    rule: Rule
    request: type[Message]
    serve: Servicer
    trailing: bool = True
    """Region, partition and position go into trailing metadata, not the message."""


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


def _say_nothing_happened(response: Any) -> None:
    # Nobody may wait for a position, or build on an etag, that never came to be.
    for name in {"position", "etag"} & set(response.DESCRIPTOR.fields_by_name):
        response.ClearField(name)


class Guard:
    """What lets calls in, and turns every error into a status."""

    def __init__(
        self, memory: Memory, writes: Writes, *, partition: str, message_bytes: int
    ) -> None:
        self._memory = memory
        self._writes = writes
        self._message_bytes = message_bytes
        self._served = (
            ("hsmvault-region", memory.region),
            ("hsmvault-partition", partition),
        )

    def behaviour(
        self, endpoint: Endpoint, *, waits: bool
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """Return what gRPC calls. Only one that `waits` honours min-position."""

        def behave(raw: bytes, context: grpc.ServicerContext) -> bytes:
            try:
                identity = identify(context)
                view = self._memory.refresh()
                seconds = 0.0
                if waits:
                    seconds = _seconds(context)
                    view = self._at_least(view, context, seconds)
                call = Call(
                    endpoint.method,
                    view,
                    identity.principal,
                    endpoint.rule,
                    "",
                    seconds,
                    wanted=context.is_active,
                )
                answer, position = self._run(endpoint, raw, call)
                if endpoint.trailing:
                    context.set_trailing_metadata(
                        (*self._served, ("hsmvault-position", position))
                    )
            except Refused as error:
                abort(context, error.status)
            except VaultError as error:
                report(error, endpoint.method)
                abort(context, status_of(error))
            except Exception as error:  # noqa: BLE001  # the one place where bugs end
                abort(context, status_of_bug(error, method=endpoint.method))
            return answer

        return behave

    def execute(
        self,
        endpoint: Endpoint | None,
        raw: bytes,
        *,
        principal: str,
        via_region: str,
        seconds: float,
    ) -> Executed:
        """Run a call that another region forwarded, on its word for the principal.

        Takes nothing but what may be forwarded, and only as primary.
        """
        method = endpoint.method if endpoint else "unknown"
        try:
            if endpoint is None or endpoint.rule.write is not Write.FORWARD:
                raise InvalidRequest(
                    "{method} is not forwarded between regions; call the primary",
                    method=method,
                )
            view = self._memory.refresh()
            view.require_primary()
            call = Call(
                method,
                view,
                principal,
                endpoint.rule,
                "",
                min(seconds, WAIT_SECONDS_MAX),
                via_region=via_region,
            )
            answer, position = self._run(endpoint, raw, call)
            return Executed(answer, b"", position)
        except VaultError as error:
            report(error, method)
            return Executed(b"", status_of(error).SerializeToString(), "")
        except Exception as error:  # noqa: BLE001  # the guard's other door
            status = status_of_bug(error, method=method)
            return Executed(b"", status.SerializeToString(), "")

    def _run(self, endpoint: Endpoint, raw: bytes, call: Call) -> tuple[bytes, str]:
        """Decide, and answer: the serialised response, and the position reached."""
        request: Any = self._parsed(endpoint, raw)
        rule, view = endpoint.rule, call.view
        call.resource = resource = rule.resource(request, view)
        permission = rule.permission
        if rule.show_deleted is not None and request.show_deleted:
            permission = rule.show_deleted
        if not view.access.permits(call.principal, permission, resource):
            # Where nobody is told, "/" is true of everything: they lack it there, too.
            told = "/" if rule.hidden else resource
            view.access.require(
                Caller(call.principal, permission, told, call.via_region)
            )
        if rule.also is not None:
            view.access.require(
                Caller(
                    call.principal,
                    rule.also[0],
                    rule.also[1](request, view),
                    call.via_region,
                )
            )
        if rule.write is Write.NONE:
            return endpoint.serve(request, call).SerializeToString(), view.served
        if not view.is_primary:
            return self._writes.elsewhere(
                endpoint.method,
                rule.write,
                raw,
                view=view,
                principal=call.principal,
                seconds=call.seconds,
            )
        self._writes.require_durable(request, view)
        response: Any = endpoint.serve(request, call)
        if validates_only(request):
            _say_nothing_happened(response)
            return response.SerializeToString(), view.served
        self._writes.await_durable(request, response, call.seconds)
        return response.SerializeToString(), response.position

    def _parsed(self, endpoint: Endpoint, raw: bytes) -> Message:
        if len(raw) > self._message_bytes:
            raise TooLarge(
                "a request of {given} bytes is more than {most}",
                given=len(raw),
                most=self._message_bytes,
            )
        try:
            return endpoint.request.FromString(raw)
        except DecodeError as error:
            raise InvalidRequest(
                "the request does not read as {wanted}",
                wanted=endpoint.request.DESCRIPTOR.full_name,
            ) from error

    def _at_least(
        self, view: View, context: grpc.ServicerContext, seconds: float
    ) -> View:
        for name, value in context.invocation_metadata():
            if name == MIN_POSITION:
                text = value if isinstance(value, str) else value.decode("ascii")
                view = self._memory.wait_for(
                    Position.parse(text), seconds=seconds, wanted=context.is_active
                )
        return view


def _seconds(context: grpc.ServicerContext) -> float:
    left = context.time_remaining()
    if left == math.inf:
        return WAIT_SECONDS
    return min(max(left - MARGIN_SECONDS, 0.0), WAIT_SECONDS_MAX)


def report(error: VaultError, method: str) -> None:
    """Tell the operator of what is not the caller's business alone."""
    if isinstance(error, IntegrityFailure):
        telemetry.report(Event.INTEGRITY_FAILED, error, method=method)
    elif isinstance(error, AccessDenied):
        telemetry.report(Event.CALL_DENIED, None, method=method, **error.facts)
