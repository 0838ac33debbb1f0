"""Where a call is served: which behaviour, in which pool."""

from collections.abc import Iterable
from typing import Any, Final

import grpc

from hsmvault.api.dispatch import MIN_POSITION, Endpoint
from hsmvault.api.guard import Guard
from hsmvault.api.pools import BoundedPool
from hsmvault.api.streams import streaming
from hsmvault.model.errors import NotSupported, Overloaded

WAIT_FOR_POSITION: Final = "/hsmvault.v1.RegionService/WaitForPosition"
BATCH: Final = "/hsmvault.v1.CryptoService/Batch"
METHOD_MAX: Final = 256
"""Characters of a path that leads nowhere which are kept."""
_FULL: Final = "too many calls are waiting here; come back, or ask another partition"


class Router(grpc.GenericRpcHandler):
    """Finds an RPC's behaviour: for serving, for writing, or where it may wait."""

    def __init__(
        self,
        guard: Guard,
        endpoints: Iterable[Endpoint],
        *,
        waiting: BoundedPool,
        writing: BoundedPool,
        batching: BoundedPool,
        watching: BoundedPool,
    ) -> None:
        self._waiting = waiting
        self._pools: dict[str, BoundedPool] = {}
        """Where what works for long does so."""
        self._serving: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._working: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._patient: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for endpoint in endpoints:
            method = endpoint.method
            if endpoint.streams:
                self._pools[method] = watching
                self._working[method] = _streaming(guard, endpoint, watching)
                continue
            self._patient[method] = _patient(guard, endpoint, waiting)
            if not endpoint.rule.waits:
                self._serving[method] = grpc.unary_unary_rpc_method_handler(
                    guard.behaviour(endpoint, waits=False)
                )
            elif method != WAIT_FOR_POSITION:
                pool = batching if method == BATCH else writing
                self._pools[method] = pool
                self._working[method] = _patient(guard, endpoint, pool)
        self._full: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            method: grpc.unary_unary_rpc_method_handler(
                guard.refusal(method, Overloaded(_FULL))
            )
            for method in (*self._patient, *self._pools)
        }

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the behaviour; gRPC answers UNIMPLEMENTED where there is none."""
        method = handler_call_details.method
        handler = self._serving.get(method)
        waits = any(
            name == MIN_POSITION for name, _ in handler_call_details.invocation_metadata
        )
        if handler is not None and not waits:
            return handler
        handler, pool = self._working.get(method), self._pools.get(method)
        if (pool is None or waits) and method in self._patient:
            handler, pool = self._patient.get(method), self._waiting
        if handler is not None and pool is not None and pool.full:
            return self._full[method]
        return handler


class Nowhere(grpc.GenericRpcHandler):
    """Refuses what nobody serves; it comes last. Such calls have an account, too."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        method = handler_call_details.method[:METHOD_MAX]
        error = NotSupported("there is no RPC {method}", method=method)
        return grpc.unary_unary_rpc_method_handler(self._guard.refusal(method, error))


def _patient(
    guard: Guard, endpoint: Endpoint, pool: BoundedPool
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Make the behaviour that may wait, in `pool`."""
    behaviour: Any = guard.behaviour(endpoint, waits=True)
    behaviour.experimental_thread_pool = pool
    return grpc.unary_unary_rpc_method_handler(behaviour)


def _streaming(
    guard: Guard, endpoint: Endpoint, pool: BoundedPool
) -> "grpc.RpcMethodHandler[Any, Any]":
    """Make the behaviour of a stream, in `pool`."""
    behaviour: Any = streaming(guard, endpoint, pool)
    behaviour.experimental_thread_pool = pool
    return grpc.unary_stream_rpc_method_handler(behaviour)
