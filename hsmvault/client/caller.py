"""What every typed call goes through: its options, its position, its request id."""

import re
import threading
import uuid
from collections.abc import Callable, Generator
from typing import Any, Final, TypedDict, Unpack

from google.protobuf.message import Message

from hsmvault.client.endpoint import Metadata
from hsmvault.client.failover import Failover
from hsmvault.client.methods import A, Method, Q, Repeat
from hsmvault.client.topology import position_of
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.log import Position
from hsmvault.v1.resources_pb2 import Durability

MIN_POSITION: Final = "min-position"
POSITION: Final = "hsmvault-position"
"""Metadata: what a call waits for, and what the serving region had reached."""

ALL_REGIONS: Final = Durability(all_regions=True)


class Options(TypedDict, total=False):
    """What any call takes beside its own arguments."""

    timeout: float
    """Seconds for all tries together; default 10, 60 where a key is generated."""
    min_position: str
    """Answer from a region that has reached this; wait, or fail, never older."""
    region: str
    """Only this region may answer; no failing over to another."""


class WriteOptions(Options, total=False):
    """What any write takes beside its own arguments."""

    request_id: str
    """By default the client makes one. Your own makes your own retries harmless."""
    validate_only: bool
    """Be told what would happen, and change nothing."""
    durability: Durability | int | str
    """Wait until n extended regions, or `ALL_REGIONS`, hold the write."""


class Seen:
    """The last position that a session's answers have shown. It never goes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._position: Position | None = None
        self.text = ""

    def observe(self, text: str) -> None:
        """Take note of a position, if it is one and newer."""
        if not text or text == self.text:
            return
        position = position_of(text)
        with self._lock:
            if position and (self._position is None or position > self._position):
                self._position, self.text = position, text


class Caller:
    """Sends typed requests, for a whole client, one region of it, or one session."""

    def __init__(
        self,
        failover: Failover,
        *,
        seen: Seen,
        region: str | None = None,
        own_writes: bool = False,
        validate_only: bool = False,
    ) -> None:
        self._failover = failover
        self.seen = seen
        self.region = region
        self._own_writes = own_writes
        self._validate_only = validate_only

    def call(
        self, method: Method[Q, A], request: Q, **options: Unpack[WriteOptions]
    ) -> A:
        """Send it until it is answered, refused, or out of time."""
        if method.repeat is Repeat.WITH_ID:
            _complete(request, options)
            write: Any = request
            if self._validate_only or options.get("validate_only"):
                write.validate_only = True
        position = options.get("min_position", "")
        if not position and self._own_writes:
            position = self.seen.text
        metadata: Metadata = ((MIN_POSITION, position),) if position else ()
        answer, trailing = self._failover.call(
            method,
            request,
            timeout=options.get("timeout", method.deadline),
            region=options.get("region") or self.region,
            metadata=metadata,
        )
        self._observe(answer, trailing)
        return answer

    def stream(
        self, method: Method[Q, A], request: Callable[[], Q], *, timeout: float
    ) -> Generator[A, None, None]:
        """Yield the answers of a stream, from wherever it can be had."""
        for answer in self._failover.stream(
            method, request, timeout=timeout, region=self.region
        ):
            self._observe(answer, ())
            yield answer

    def _observe(self, answer: Message, trailing: Metadata) -> None:
        served = getattr(answer, "served", None)
        if served is not None:
            self.seen.observe(served.position)
            return
        self.seen.observe(getattr(answer, "position", ""))
        for key, value in trailing:
            if key == POSITION and isinstance(value, str):
                self.seen.observe(value)


def _complete(request: Message, options: WriteOptions) -> None:
    """Fill in what every write carries."""
    fields = request.DESCRIPTOR.fields_by_name
    write: Any = request
    if "request_id" in fields:
        write.request_id = options.get("request_id") or uuid.uuid4().hex
    wanted = options.get("durability")
    if wanted is not None and "durability" in fields:
        write.durability.CopyFrom(durability(wanted))


def durability(wanted: Durability | int | str) -> Durability:
    """Read a level: `REGION`, `ALL_REGIONS`, or a number of extended regions.

    Raises InvalidRequest for another word: whoever asked for more must not get less.
    """
    if isinstance(wanted, Durability):
        return wanted
    if isinstance(wanted, int):
        return Durability(regions=wanted)
    if wanted == "ALL_REGIONS":
        return ALL_REGIONS
    if wanted == "REGION":
        return Durability()
    if not re.fullmatch(r"[0-9]{1,4}", wanted):
        raise InvalidRequest(
            "durability is REGION, ALL_REGIONS or a number of extended regions, not "
            "{given}",
            given=repr(wanted[:50]),
        )
    return Durability(regions=int(wanted))
