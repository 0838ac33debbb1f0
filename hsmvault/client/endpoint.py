"""One partition as a client sees it: a channel, and whether it is worth a try."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc

from hsmvault.client.methods import A, Method, Q
from hsmvault.client.topology import Place

Metadata = tuple[tuple[str, str | bytes], ...]

_REST_FIRST: Final = 0.1
_REST_MAX: Final = 2.0
"""Seconds that an endpoint is left alone after failing: doubled up to the maximum."""


class Endpoint:
    """A channel to one address. It connects by itself and says when it is ready.

    `ready` follows the connection: a killed process is noticed at once, a stopped one
    within the keep-alive's time, both without any call.
    """

    def __init__(
        self,
        place: Place,
        channel: grpc.Channel,
        *,
        changed: Callable[[], None],
        authorization: Callable[[], Metadata] | None = None,
    ) -> None:
        """Connect. `authorization`: what each call shows, where no certificate is."""
        self.place = place
        self.bears = authorization is not None
        self._channel = channel
        self._changed = changed
        self._authorization = authorization or (lambda: ())
        self._calls: dict[str, grpc.UnaryUnaryMultiCallable[Any, Any]] = {}
        self._failures = 0
        self._rests_until = 0.0
        self.ready = False
        self.failed = threading.Event()
        """Set while connecting fails."""
        channel.subscribe(self._connectivity, try_to_connect=True)

    def _connectivity(self, state: grpc.ChannelConnectivity) -> None:
        self.ready = state is grpc.ChannelConnectivity.READY
        if self.ready:
            self._failures, self._rests_until = 0, 0.0
            self.failed.clear()
        elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            self.failed.set()
        self._changed()

    def usable(self, now: float) -> bool:
        """Tell whether a call sent now has a good chance."""
        return self.ready and now >= self._rests_until

    def invoke(
        self, method: Method[Q, A], request: Q, *, timeout: float, metadata: Metadata
    ) -> tuple[A, Metadata]:
        """Call once; return the answer and the trailing metadata."""
        call = self._calls.get(method.path)
        if call is None:
            call = self._channel.unary_unary(
                method.path,
                request_serializer=method.encode,
                response_deserializer=method.decode,
            )
            self._calls[method.path] = call
        answer, ended = call.with_call(
            request, timeout=timeout, metadata=(*metadata, *self._authorization())
        )
        if self._failures:
            self._failures, self._rests_until = 0, 0.0
        return answer, tuple(ended.trailing_metadata() or ())

    def stream(self, method: Method[Q, A], request: Q) -> Iterator[A]:
        """Call for a stream; it lasts until it ends, or is closed."""
        call = self._channel.unary_stream(
            method.path,
            request_serializer=method.encode,
            response_deserializer=method.decode,
        )(request, metadata=self._authorization())
        try:
            yield from call
        finally:
            call.cancel()

    def rest(self) -> None:
        """Leave it alone for a while: it failed a call."""
        pause = min(_REST_FIRST * 2**self._failures, _REST_MAX)
        self._failures = min(self._failures + 1, 10)
        self._rests_until = time.monotonic() + pause

    def close(self) -> None:
        """Close the channel. Calls in flight end as cancelled."""
        self._channel.unsubscribe(self._connectivity)
        self._channel.close()
