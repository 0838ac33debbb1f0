"""One call, as many tries as it takes: another partition, then another region.

What is tried again is what cannot do harm: reads and cryptography always, a write only
with its request_id, by which the vault answers the second as it answered the first. Who
is told when to come back comes back then. Any other refusal is an answer:
PRIMARY_UNAVAILABLE is the policy's word, and no other region would say otherwise.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import grpc

from hsmvault.client.balancing import Pool
from hsmvault.client.diagnosis import diagnosis
from hsmvault.client.endpoint import Endpoint, Metadata
from hsmvault.client.errors import DeadlineExceeded, from_rpc, retry_delay
from hsmvault.client.methods import A, Method, Q, Repeat
from hsmvault.model.errors import (
    NotPrimary,
    Overloaded,
    RateLimited,
    RegionBehind,
    Unavailable,
    VaultError,
)
from hsmvault.tracing import TRACEPARENT

PATIENCE: Final = 2.5
"""Seconds that one try of a harmless call gets; doubled with each round of tries. A
partition whose HSM hangs answers pings, so only this finds it."""

PAUSE_FIRST: Final = 0.02
PAUSE_MAX: Final = 0.5
"""Between two rounds over all partitions, in seconds."""

REDIRECTS_MAX: Final = 3
"""A primary may move while we look for it, but not that often within one call."""

_TRANSPORT: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        # A server that drains cuts what does not end in time; we never cancel.
        grpc.StatusCode.CANCELLED,
    }
)


@dataclass(slots=True)
class Journey:
    """What one call has been through."""

    ends: float
    region: str | None
    """Where it must be served; None: wherever it can."""
    avoid: set[object] = field(default_factory=set)
    """Endpoints that failed in this round."""
    behind: set[object] = field(default_factory=set)
    """Regions that have not reached what the call asks for."""
    rounds: int = 0
    redirects: int = 0
    last: VaultError | None = None

    @property
    def left(self) -> float:
        return self.ends - time.monotonic()


class Failover:
    """Calls that go on while anybody can answer them. For any number of threads."""

    def __init__(
        self,
        pool: Pool,
        *,
        troubled: Callable[[], None],
        traceparent: Callable[[], str] | None = None,
    ) -> None:
        self._pool = pool
        self._troubled = troubled
        """Called on a sign that the topology may have changed. Must not block."""
        self._traceparent = traceparent

    def call(
        self,
        method: Method[Q, A],
        request: Q,
        *,
        timeout: float,
        region: str | None,
        metadata: Metadata = (),
    ) -> tuple[A, Metadata]:
        """Return the answer and trailing metadata, or raise one of our errors."""
        journey = Journey(time.monotonic() + timeout, region)
        # With metadata it may wait for a position.
        waits = method.waits or bool(metadata)
        hasty = method.repeat is Repeat.ALWAYS and not waits
        if self._traceparent is not None and (trace := self._traceparent()):
            metadata = (*metadata, (TRACEPARENT, trace))
        while True:
            endpoint = self._next(journey)
            left = journey.left
            patience = min(left, PATIENCE * 2**journey.rounds) if hasty else left
            try:
                return endpoint.invoke(
                    method, request, timeout=max(patience, 0.001), metadata=metadata
                )
            except grpc.RpcError as error:
                self._judge(journey, endpoint, method.repeat, error)
            except ValueError as error:
                # The channel was closed under us: the topology changed, or the client.
                self._gone(journey, endpoint, error)

    def stream(
        self,
        method: Method[Q, A],
        request: Callable[[], Q],
        *,
        timeout: float,
        region: str | None,
    ) -> Iterator[A]:
        """Yield the answers of a stream that goes on elsewhere when it breaks off.

        `request` makes the one that goes on from what was yielded last. Raises what a
        call would, when nobody has answered anything for `timeout` seconds.
        """
        journey = Journey(time.monotonic() + timeout, region)
        while True:
            endpoint = self._next(journey)
            try:
                for answer in endpoint.stream(method, request()):
                    journey = Journey(time.monotonic() + timeout, region)
                    yield answer
            except grpc.RpcError as error:
                # Whoever answered for long and then broke off starts the time anew.
                journey.ends = max(journey.ends, time.monotonic() + timeout / 2)
                self._judge(journey, endpoint, method.repeat, error)
            except ValueError as error:
                self._gone(journey, endpoint, error)
            else:
                journey.avoid.add(endpoint)

    def _next(self, journey: Journey) -> Endpoint:
        """Return the next endpoint to try; wait for one while there is time."""
        while True:
            endpoint = self._pool.pick(
                journey.region, journey.avoid | journey.behind or ()
            )
            if endpoint is not None:
                return endpoint
            if journey.last and journey.behind and self._everyone_behind(journey):
                raise journey.last
            if journey.left <= 0:
                raise self._why(journey)
            if journey.avoid:
                pause = min(PAUSE_FIRST * 2**journey.rounds, PAUSE_MAX)
                time.sleep(max(min(pause, journey.left), 0))
                journey.avoid.clear()
                journey.rounds = min(journey.rounds + 1, 10)
            else:
                self._pool.wait(min(journey.left, 0.1))

    def _everyone_behind(self, journey: Journey) -> bool:
        names = self._pool.order if journey.region is None else (journey.region,)
        return all(
            name in journey.behind or not self._pool.ready(name) for name in names
        )

    def _judge(
        self,
        journey: Journey,
        endpoint: Endpoint,
        repeat: Repeat,
        error: grpc.RpcError,
    ) -> None:
        """Return if the call may be tried again, and raise our error if not."""
        failure = from_rpc(error)
        journey.last = failure
        if isinstance(failure, NotPrimary):
            self._redirect(journey, failure, error)
            return
        if isinstance(failure, Overloaded):
            self._overloaded(journey, endpoint, failure, error)
            return
        code = error.code()
        if code not in _TRANSPORT:
            raise failure from error
        if isinstance(failure, RegionBehind):
            # A write that answers so stands; to send it again would only wait again.
            if repeat is not Repeat.ALWAYS:
                raise failure from error
            journey.behind.add(endpoint.place.region)
            return
        if journey.left <= 0:
            if isinstance(failure, DeadlineExceeded):
                raise self._too_late(repeat) from error
            raise failure from error
        endpoint.rest()
        journey.avoid.add(endpoint)
        self._troubled()

    def _overloaded(
        self,
        journey: Journey,
        endpoint: Endpoint,
        failure: Overloaded,
        error: grpc.RpcError,
    ) -> None:
        """Ask again when the vault said so, where that is in time."""
        delay = retry_delay(error)
        if delay is None or delay >= journey.left:
            raise failure from error
        if isinstance(failure, RateLimited):
            # Another partition would answer sooner; but the limit is meant for us.
            time.sleep(delay)
        else:
            journey.avoid.add(endpoint)

    def _gone(self, journey: Journey, endpoint: Endpoint, error: ValueError) -> None:
        if not self._pool.order:
            raise Unavailable("the client was closed") from error
        journey.avoid.add(endpoint)
        self._troubled()

    def _redirect(
        self, journey: Journey, failure: VaultError, error: grpc.RpcError
    ) -> None:
        """Go to the primary that the error names, if it is one of this vault's."""
        journey.redirects += 1
        facts = failure.facts
        # `region` is the one that refused where `primary` is told besides.
        address, region = facts.get("endpoint"), facts.get("primary")
        region = region or facts.get("region", "")
        known = self._pool.map
        # What an answer names is not trusted: nobody may send us to a stranger.
        if (
            known is None
            or known.region(region) is None
            or (address and not known.has(address))
            or journey.redirects > REDIRECTS_MAX
            or region == journey.region
        ):
            self._troubled()
            raise failure from error
        journey.region = region
        journey.avoid.clear()

    def _too_late(self, repeat: Repeat) -> VaultError:
        message = "no answer in time"
        if repeat is Repeat.WITH_ID:
            message += "; the write may stand: repeat it with the same request_id"
        return DeadlineExceeded(message)

    def _why(self, journey: Journey) -> VaultError:
        """Say why nobody could be asked: by the last failure, or by asking why."""
        if journey.last is not None:
            return journey.last
        endpoint = self._pool.anyone(journey.region)
        where = journey.region or "any region"
        if endpoint is None:
            return Unavailable(
                "region {region} is not one that this vault serves from; see "
                "`hsmvault region list`",
                region=where,
            )
        return diagnosis(self._pool, endpoint, patient=True) or Unavailable(
            "no partition of {region} answers (asked {address} last); is it running? "
            "`hsmvault serve --region DIR` starts it",
            region=where,
            address=endpoint.place.address,
        )
