"""One guard around every RPC: who, is the copy fresh, may they, then the call.

Everything runs in this order: identity → memory not older than the store → admission
→ position asked for → name well formed → permission → (existence and all else, in the
vault) → the account of it, to all who must know → the answer.
A plain function instead of gRPC interceptors, which cost several times as much.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.status_pb2 import Status

from hsmvault import tracing
from hsmvault.api.account import OK, Account, Authentication, Observer
from hsmvault.api.admission import require_network
from hsmvault.api.auditing import Auditing
from hsmvault.api.callers import Callers
from hsmvault.api.dispatch import (
    MIN_POSITION,
    WAIT_SECONDS_MAX,
    Call,
    Endpoint,
    discarded,
    report,
    say_nothing_happened,
    seconds_left,
    validates_only,
)
from hsmvault.api.facts import TEXT_MAX, brief
from hsmvault.api.forwarding import Refused, Writes
from hsmvault.api.identity import Identity
from hsmvault.api.permissions import Write
from hsmvault.api.place import Place
from hsmvault.api.ports import Tracing
from hsmvault.api.status import abort, code_and_reason, status_of, status_of_bug
from hsmvault.model.errors import (
    AuditUnavailable,
    InvalidRequest,
    IssuerUnavailable,
    TooLarge,
    Unauthenticated,
    VaultError,
)
from hsmvault.model.log import Position
from hsmvault.regions.ports import Executed
from hsmvault.vault.memory import Memory
from hsmvault.vault.view import Caller, View


class Answer(NamedTuple):
    """How a call ended: by a serialised response, or by a status."""

    response: bytes
    position: str
    status: Status | None = None


Admission = Callable[[Identity | None, str, View], None]
"""Lets a caller in, from a peer's address, or raises a VaultError.

Also asked about nobody, who is refused in any case: it may raise what tells less.
"""


class Guard:
    """What lets calls in, turns every error into a status, and gives the account."""

    def __init__(
        self,
        memory: Memory,
        writes: Writes,
        callers: Callers,
        *,
        partition: str,
        message_bytes: int,
        auditing: Auditing,
        admissions: Sequence[Admission] = (),
        observers: Sequence[Observer] = (),
        traces: Tracing | None = None,
    ) -> None:
        self._traces = traces
        self._memory = memory
        self._writes = writes
        self._callers = callers
        self._message_bytes = message_bytes
        self._auditing = auditing
        self._admissions = admissions
        self._observers = observers
        self._place = Place(memory.region, partition)

    def behaviour(
        self, endpoint: Endpoint, *, waits: bool
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """Return what gRPC calls. Only one that `waits` honours min-position."""

        def behave(raw: bytes, context: grpc.ServicerContext) -> bytes:
            if self._traces is not None:
                sent = tracing.carry(context.invocation_metadata())
                self._traces.begin(endpoint.method, sent)
            told = Account(endpoint.method, context.peer(), abandon=context.cancel)
            answer = self.answered(
                told,
                lambda: self.come(endpoint, raw, context, waits=waits, told=told),
            )
            if answer.status is not None:
                abort(context, answer.status)
            if endpoint.trailing:
                context.set_trailing_metadata(self._place.metadata(answer.position))
            return answer.response

        return behave

    def refusal(
        self, method: str, error: VaultError
    ) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        """Return what gRPC calls where a call is refused without being looked at."""

        def refuse(_raw: bytes, context: grpc.ServicerContext) -> bytes:
            def run() -> tuple[bytes, str]:
                self._admitted(context, told)
                raise error

            told = Account(method, context.peer(), abandon=context.cancel)
            status = self.answered(told, run).status
            assert status is not None
            abort(context, status)

        return refuse

    def execute(
        self,
        endpoint: Endpoint | None,
        raw: bytes,
        *,
        principal: str,
        via_region: str,
        seconds: float,
        proof: bytes = b"",
    ) -> Executed:
        """Run a call that another region forwarded, by its caller's own proof.

        Without one the region's word for the principal has to do, for what may be
        forwarded so. Takes writes alone, and only as primary.
        """
        method = endpoint.method if endpoint else "unknown"
        if self._traces is not None:
            self._traces.begin(method, tracing.carried())
        told = Account(method, "", via_region, principal, Authentication.REGION)

        def run() -> tuple[bytes, str]:
            if endpoint is None or endpoint.rule.write not in _forwardable(proof):
                raise _not_forwarded(method)
            if proof:
                self._callers.require_proof(proof, of=principal)
                told.authentication = Authentication.JWT
            self._auditing.require()
            view = self._memory.refresh()
            view.require_primary()
            call = Call(
                method,
                view,
                principal,
                endpoint.rule,
                "",
                min(seconds, WAIT_SECONDS_MAX),
                told,
                via_region=via_region,
            )
            return self._run(endpoint, raw, call)

        answer = self.answered(told, run)
        if answer.status is not None:
            return Executed(b"", answer.status.SerializeToString(), "")
        return Executed(answer.response, b"", answer.position)

    def answered(self, told: Account, run: Callable[[], tuple[bytes, str]]) -> Answer:
        """Run a call to its end, whatever that is, and give the one account of it.

        It is answered as it ended only if that could be recorded.
        """
        return self.recorded(told, self.ended(told, run))

    def recorded(self, told: Account, answer: Answer) -> Answer:
        """Give the one account of a call that ended so."""
        told.position = answer.position
        _end(told, answer)
        try:
            self._auditing.write(told)
        except AuditUnavailable as error:
            answer = Answer(b"", "", status_of(error))
            _end(told, answer)
        for observer in self._observers:
            observer(told)
        return answer

    def ended(self, told: Account, run: Callable[[], tuple[bytes, str]]) -> Answer:
        """Run a call, or a step of one: whatever it raises becomes a status."""
        try:
            return Answer(*run())
        except Refused as error:
            return Answer(b"", "", error.status)
        except VaultError as error:
            report(error, told.method)
            return Answer(b"", "", status_of(error))
        except Exception as error:  # noqa: BLE001  # the one place where bugs end
            return Answer(b"", "", status_of_bug(error, method=told.method))

    def come(
        self,
        endpoint: Endpoint,
        raw: bytes,
        context: grpc.ServicerContext,
        *,
        waits: bool,
        told: Account,
    ) -> tuple[bytes, str]:
        """Let in a caller who came themselves, and serve them."""
        identity, view = self._admitted(context, told)
        self._auditing.require()
        seconds = 0.0
        if waits:
            seconds = seconds_left(context)
            view = self._at_least(view, context, seconds)
            self._callers.require_unrevoked(identity, view.vault)
        call = Call(
            endpoint.method,
            view,
            identity.principal,
            endpoint.rule,
            "",
            seconds,
            told,
            proof=identity.proof,
            wanted=context.is_active,
            look=partial(self._look, context, told) if endpoint.streams else None,
        )
        return self._run(endpoint, raw, call)

    def _admitted(
        self, context: grpc.ServicerContext, told: Account
    ) -> tuple[Identity, View]:
        """Say who calls, and let them in, as of a view that is not older than now."""
        try:
            identity = self._callers.identify(context)
            told.principal = identity.principal
            told.authentication = identity.authentication
            view = self._memory.refresh()
            self._callers.require_unrevoked(identity, view.vault)
        except (Unauthenticated, IssuerUnavailable):
            # Who was revoked must not use up what the same caller may do now.
            self._admit(None, told.peer, self._memory.refresh())
            raise
        self._admit(identity, told.peer, view)
        return identity, view

    def _look(self, context: grpc.ServicerContext, told: Account) -> View:
        """Return what holds now, or raise if who was let in would not be again."""
        identity = self._callers.identify(context)
        view = self._memory.refresh()
        require_network(told.peer, view)
        self._callers.require_unrevoked(identity, view.vault)
        self._auditing.require()
        return view

    def _admit(self, identity: Identity | None, peer: str, view: View) -> None:
        for admit in self._admissions:
            admit(identity, peer, view)

    def _run(self, endpoint: Endpoint, raw: bytes, call: Call) -> tuple[bytes, str]:
        """Decide, and answer: the serialised response, and the position reached."""
        request: Any = self._parsed(endpoint, raw)
        rule, view, under = endpoint.rule, call.view, call.told
        telling = endpoint.telling
        under.facts = telling.facts(request)
        if telling.has_id:
            under.request_id = request.request_id[:TEXT_MAX]
        under.version = telling.named(request)
        call.resource = under.resource = resource = rule.resource(request, view)
        permission = rule.permission
        if rule.show_deleted is not None and request.show_deleted:
            permission = rule.show_deleted
        via = call.via_region
        if not view.access.permits(call.principal, permission, resource, via):
            # Where nobody is told, "/" is true of everything: they lack it there, too.
            told = "/" if rule.hidden else resource
            view.access.require(Caller(call.principal, permission, told, via))
        if rule.also is not None:
            view.access.require(
                Caller(
                    call.principal,
                    rule.also[0],
                    rule.also[1](request, view),
                    via,
                )
            )
        if rule.write is Write.NONE:
            response: Any = endpoint.serve(request, call)
            under.version = telling.made(response) or under.version
            answer = response.SerializeToString()
            if not endpoint.trailing:
                answer += self._place.field(endpoint.response, view.served)
            return answer, view.served
        redirected = rule.redirects(request)
        if redirected and call.via_region:
            raise _not_forwarded(endpoint.method)
        self._auditing.require_room()
        if not view.is_primary:
            written, position = self._writes.elsewhere(
                endpoint.method,
                Write.REDIRECT if redirected else rule.write,
                raw,
                view=view,
                principal=call.principal,
                # With it, even what is redirected would be forwarded.
                proof=b"" if redirected else call.proof,
                seconds=call.seconds,
            )
            under.version = telling.made(endpoint.response.FromString(written))
            return written, position
        self._writes.require_durable(request, view)
        response = endpoint.serve(request, call)
        if validates_only(request):
            say_nothing_happened(response)
            return response.SerializeToString(), view.served
        under.version = telling.made(response) or under.version
        self._writes.await_durable(request, response, call.seconds)
        return response.SerializeToString(), response.position

    def _parsed(self, endpoint: Endpoint, raw: bytes) -> Message:
        most = endpoint.rule.request_bytes or self._message_bytes
        if len(raw) > most:
            raise TooLarge(
                "a request of {given} bytes is more than {most}",
                given=len(raw),
                most=most,
            )
        try:
            request = endpoint.request.FromString(raw)
        except DecodeError as error:
            raise InvalidRequest(
                "the request does not read as {wanted}",
                wanted=endpoint.request.DESCRIPTOR.full_name,
            ) from error
        request.DiscardUnknownFields()
        # Hot: what is written back as long as it came had nothing that was discarded.
        # Other lengths may be other ways to write the same.
        if request.ByteSize() != len(raw) and discarded(endpoint, raw, request):
            # It might be the one that says to validate only, or under which etag.
            raise InvalidRequest(
                "the request has fields that {wanted} does not have in this release; "
                "leave them out, or ask a newer region",
                wanted=endpoint.request.DESCRIPTOR.full_name,
            )
        return request

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


def _forwardable(proof: bytes) -> tuple[Write, ...]:
    """What an extended region may have run here: more, where it need not vouch."""
    return (Write.FORWARD, Write.REDIRECT) if proof else (Write.FORWARD,)


def _end(told: Account, answer: Answer) -> None:
    if answer.status is None:
        told.end(OK)
    else:
        told.facts = brief(told.facts)
        told.end(*code_and_reason(answer.status))


def _not_forwarded(method: str) -> InvalidRequest:
    return InvalidRequest(
        "{method} is not forwarded between regions; call the primary", method=method
    )
