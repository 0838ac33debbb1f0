"""Health and reflection: for every caller with an identity, in pools of their own.

Health answers from any network: balancers ask, and it tells nothing but whether calls
are welcome. Reflection answers only where calls may come from.

A call that hangs in the vault must not make a healthy partition look dead, and an open
reflection stream must not take a serving thread. Nobody is asked for a role here, so
what one caller can hold open is bounded: a check is answered at once and leaves
nothing, watchers cost memory and no thread, and reflection streams count among the
calls that a listener takes at a time.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from hsmvault.api.identity import Identity
from hsmvault.api.pools import BoundedPool
from hsmvault.api.status import abort, status_of
from hsmvault.model.errors import Overloaded, VaultError

REFLECTION_THREADS: Final = 2
REFLECTIONS_MAX: Final = 16
"""Reflection streams that run or queue; a listener would refuse calls for more."""
WATCHES_OF_ONE: Final = 256
"""Health watchers of one principal: more than its clients need of one partition."""

_REFLECTION: Final = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
_UNKNOWN: Final = health_pb2.HealthCheckResponse(
    status=health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
)


class _Watchers:
    """How many watchers each principal has open."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        self._counting = threading.Lock()

    def enter(self, principal: str, context: grpc.ServicerContext) -> None:
        """Count a watcher until its call ends; raise Overloaded for one too many."""
        with self._counting:
            if self._open[principal] >= WATCHES_OF_ONE:
                raise Overloaded(
                    "{principal} watches the health of this partition {most} times "
                    "already; end some, or use Check",
                    principal=principal,
                    most=WATCHES_OF_ONE,
                )
            self._open[principal] += 1
        if not context.add_callback(lambda: self._leave(principal)):
            self._leave(principal)

    def _leave(self, principal: str) -> None:
        with self._counting:
            self._open[principal] -= 1
            # Names that are nobody's any more take no room.
            self._open += Counter()


class Attendant:
    """Answers for the server itself."""

    def __init__(
        self,
        services: Sequence[str],
        *,
        identify: Callable[[grpc.ServicerContext], Identity],
        admit: Callable[[str], None],
    ) -> None:
        """`identify` raises a VaultError for who is nobody.

        `admit` raises one for peers who may not come in.
        """
        self._identify = identify
        self._admit = admit
        self._health_pool = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._reflection_pool = BoundedPool(
            REFLECTION_THREADS, name="reflection", pending_max=REFLECTIONS_MAX
        )
        self._watchers = _Watchers()
        self._names = ["", *services, health.SERVICE_NAME]
        self._health = health.HealthServicer()
        self._reflection = reflection.ReflectionServicer(
            [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        )
        self.set_serving(serving=False)
        self.handlers = (self._health_handler(), self._reflection_handler())

    def set_serving(self, *, serving: bool) -> None:
        """Say whether calls are welcome, to those who ask and to those who watch."""
        state = health_pb2.HealthCheckResponse.ServingStatus.Value(
            "SERVING" if serving else "NOT_SERVING"
        )
        for name in self._names:
            self._health.set(name, state)

    def close(self) -> None:
        """End the pools."""
        self._health_pool.shutdown(wait=False, cancel_futures=True)
        self._reflection_pool.shutdown(wait=False, cancel_futures=True)

    def _identified(self, context: grpc.ServicerContext) -> Identity:
        """Return who calls, or end the call of who is nobody."""
        try:
            return self._identify(context)
        except VaultError as error:
            abort(context, status_of(error))

    def _health_handler(self) -> grpc.GenericRpcHandler:
        def check(request: Any, context: grpc.ServicerContext) -> Any:
            self._identified(context)
            return self._health.Check(request, context)

        def watch(request: Any, context: grpc.ServicerContext, respond: Any) -> Any:
            principal = self._identified(context).principal
            try:
                self._watchers.enter(principal, context)
            except Overloaded as error:
                abort(context, status_of(error))
            if request.service not in self._names:
                # The servicer would keep every name that it was ever asked for.
                return respond(_UNKNOWN)
            return self._health.Watch(request, context, respond)

        # The servicer itself would keep these on its class, for all instances.
        behaviours: tuple[Any, ...] = (check, watch)
        for behaviour in behaviours:
            behaviour.experimental_thread_pool = self._health_pool
        behaviours[1].experimental_non_blocking = True
        return grpc.method_handlers_generic_handler(
            health.SERVICE_NAME,
            {
                "Check": grpc.unary_unary_rpc_method_handler(
                    check,
                    request_deserializer=health_pb2.HealthCheckRequest.FromString,
                    response_serializer=_serialised,
                ),
                "Watch": grpc.unary_stream_rpc_method_handler(
                    watch,
                    request_deserializer=health_pb2.HealthCheckRequest.FromString,
                    response_serializer=_serialised,
                ),
            },
        )

    def _reflection_handler(self) -> grpc.GenericRpcHandler:
        def admitted(requests: Iterator[Any], peer: str) -> Iterator[Any]:
            # Again for each: a stream outlives what the vault allowed at its start.
            for request in requests:
                self._admit(peer)
                yield request

        def inform(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            self._identified(context)
            known = admitted(requests, context.peer())
            try:
                yield from self._reflection.ServerReflectionInfo(known, context)
            except VaultError as error:
                abort(context, status_of(error))

        setattr(inform, "experimental_thread_pool", self._reflection_pool)  # noqa: B010
        return _Reflection(_streaming(inform), self._reflection_pool)


class _Reflection(grpc.GenericRpcHandler):
    """Finds the behaviour of reflection: another one while its pool is full."""

    def __init__(self, inform: Any, pool: BoundedPool) -> None:
        self._inform = inform
        self._pool = pool
        self._full = _streaming(_refuse)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != _REFLECTION:
            return None
        return self._full if self._pool.full else self._inform


def _refuse(_requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
    error = Overloaded("too many reflection streams are open here; come back later")
    abort(context, status_of(error))


def _streaming(behaviour: Callable[..., Any]) -> Any:
    return grpc.stream_stream_rpc_method_handler(
        behaviour,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=_serialised,
    )


def _serialised(message: Any) -> bytes:
    return bytes(message.SerializeToString())
