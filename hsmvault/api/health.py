"""Health and reflection: for every caller with an identity, in pools of their own.

Health answers from any network: balancers ask, and it tells nothing but whether calls
are welcome. Reflection answers only where calls may come from.

A call that hangs in the vault must not make a healthy partition look dead, and an open
reflection stream must not take a serving thread.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from hsmvault.api.status import abort, status_of
from hsmvault.model.errors import VaultError

REFLECTION_THREADS: Final = 2


class Attendant:
    """Answers for the server itself."""

    def __init__(
        self,
        services: Sequence[str],
        *,
        identify: Callable[[grpc.ServicerContext], None],
        admit: Callable[[str], None],
    ) -> None:
        """`identify` ends the call of who is nobody.

        `admit` raises a VaultError for peers who may not come in.
        """
        self._identify = identify
        self._admit = admit
        self._health_pool = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._reflection_pool = ThreadPoolExecutor(
            REFLECTION_THREADS, thread_name_prefix="reflection"
        )
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

    def _health_handler(self) -> grpc.GenericRpcHandler:
        def check(request: Any, context: grpc.ServicerContext) -> Any:
            self._identify(context)
            return self._health.Check(request, context)

        def watch(request: Any, context: grpc.ServicerContext, respond: Any) -> Any:
            self._identify(context)
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
            self._identify(context)
            known = admitted(requests, context.peer())
            try:
                yield from self._reflection.ServerReflectionInfo(known, context)
            except VaultError as error:
                abort(context, status_of(error))

        setattr(inform, "experimental_thread_pool", self._reflection_pool)  # noqa: B010
        return grpc.method_handlers_generic_handler(
            reflection.SERVICE_NAME,
            {
                "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                    inform,
                    request_deserializer=(
                        reflection_pb2.ServerReflectionRequest.FromString
                    ),
                    response_serializer=_serialised,
                )
            },
        )


def _serialised(message: Any) -> bytes:
    return bytes(message.SerializeToString())
