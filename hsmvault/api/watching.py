"""VaultService.Watch: changes as they happen, to those who may read them.

One thread per watcher, of a pool of their own, and few per principal. Nothing is queued
for a watcher: it is read from the log when the one before was taken, so one that reads
slowly costs its thread and nothing else.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from hsmvault.api.convert_changes import OF_THE_VAULT, READ, Reader, change
from hsmvault.api.dispatch import Call
from hsmvault.model.errors import InvalidRequest, NotServing, Overloaded
from hsmvault.model.grants import Scope
from hsmvault.model.log import Entry, Position
from hsmvault.v1 import vault_service_pb2 as pb
from hsmvault.vault.feed import Feed
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Store
from hsmvault.vault.view import Caller, View

PER_PRINCIPAL: Final = 4
"""Streams at once, of one partition."""
POLL_SECONDS: Final = 0.05
HEARTBEAT_SECONDS: Final = 10
HEARTBEAT_MAX: Final = 60
RESPONSE_BYTES: Final = 256 * 1024
"""A response ends after the change that fills it up to here."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a watcher wants to be told."""

    scope: Scope
    kinds: frozenset[int]
    named: bool
    """The kinds were named, not just all."""
    heartbeat: float

    @classmethod
    def of(cls, request: pb.WatchRequest) -> Self:
        """Read a request, or raise InvalidRequest."""
        scope = Scope.parse(request.scope or "/")
        kinds = frozenset(request.kinds)
        odd = kinds - READ.keys()
        if odd or (kinds & OF_THE_VAULT and scope.path != "/"):
            raise InvalidRequest(
                "kinds names what there is not at {scope}; known are {known}",
                scope=scope.path,
                known=", ".join(pb.Change.Kind.keys()[1:]),
            )
        seconds = request.heartbeat.seconds
        if request.HasField("heartbeat") and not 1 <= seconds <= HEARTBEAT_MAX:
            raise InvalidRequest("heartbeat is 1 to {most} seconds", most=HEARTBEAT_MAX)
        return cls(
            scope,
            kinds or frozenset(READ),
            bool(kinds),
            float(seconds or HEARTBEAT_SECONDS),
        )

    def require_readable(self, view: View, principal: str) -> None:
        """Raise AccessDenied unless there is something here that they may read.

        Each kind, where kinds were named; any, where not.
        """
        scopes = {self.scope.path} | {
            held.scope.path
            for held in view.access.of(principal)
            if self.scope.covers(held.scope.path)
        }
        missing = [
            READ[kind][0]
            for kind in sorted(self.kinds)
            if not any(
                view.access.permits(principal, permission, path)
                for permission in READ[kind]
                for path in scopes
            )
        ]
        if missing and (self.named or len(missing) == len(self.kinds)):
            view.access.require(Caller(principal, missing[0], self.scope.path))


class Watching:
    """All watchers of one partition."""

    def __init__(
        self, store: Store, memory: Memory, *, per_principal: int = PER_PRINCIPAL
    ) -> None:
        self._store = store
        self._memory = memory
        self._most = per_principal
        self._streams: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.ending = threading.Event()
        """Set when the partition ends: all streams end then, and go on elsewhere."""

    def open(self, request: pb.WatchRequest, call: Call) -> "Stream":
        """Begin a stream, or say why not. It must be closed."""
        asked = Asked.of(request)
        asked.require_readable(call.view, call.principal)
        since = call.view.position
        if request.position:
            since = Position.parse(request.position)
            self._memory.wait_for(since, seconds=call.seconds, wanted=call.wanted)
        feed = Feed(self._store, since, region=self._memory.region)
        self._enter(call.principal)
        return Stream(
            asked, feed, call, self.ending, left=lambda: self._leave(call.principal)
        )

    def _enter(self, principal: str) -> None:
        with self._lock:
            if self._streams[principal] >= self._most:
                raise Overloaded(
                    "{principal} watches {most} times here already; end one, or ask "
                    "another partition",
                    principal=principal,
                    most=self._most,
                )
            self._streams[principal] += 1

    def _leave(self, principal: str) -> None:
        with self._lock:
            self._streams[principal] -= 1
            if not self._streams[principal]:
                del self._streams[principal]


class Stream:
    """One watcher's responses. Each `next` waits until there is one to give."""

    def __init__(
        self,
        asked: Asked,
        feed: Feed,
        call: Call,
        ending: threading.Event,
        *,
        left: Callable[[], None],
    ) -> None:
        assert call.look is not None, "Watch is served as a stream"
        self._asked = asked
        self._feed = feed
        self._look = call.look
        self._wanted = call.wanted
        self._principal = call.principal
        self._ending = ending
        self._left = left
        self._responses = self._all()
        self._leaving = threading.Lock()
        self._over = threading.Event()

    @property
    def position(self) -> str:
        """What the stream has come to."""
        return str(self._feed.position)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pb.WatchResponse:
        return next(self._responses)

    def give_up(self) -> None:
        """Make room for another one, and end soon. From any thread, any time."""
        with self._leaving:
            if self._over.is_set():
                return
            self._over.set()
        self._left()

    def close(self) -> None:
        """Make room for another one. By the thread that reads; may be called twice."""
        self._responses.close()
        self.give_up()

    def _all(self) -> Generator[pb.WatchResponse, None, None]:
        view = self._seen()
        told = time.monotonic()
        while self._wanted():
            for page in self._feed.pages(view):
                for response in self._told(page):
                    yield response
                    told = time.monotonic()
            if time.monotonic() - told >= self._asked.heartbeat:
                yield pb.WatchResponse(position=self.position)
                told = time.monotonic()
            if self._over.wait(POLL_SECONDS):
                return
            view = self._seen()

    def _seen(self) -> View:
        """Return what holds now, or raise what ends the stream."""
        if self._ending.is_set():
            raise NotServing(
                "this partition is ending; watch another one from {position}",
                position=self.position,
            )
        view = self._look()
        self._asked.require_readable(view, self._principal)
        return view

    def _told(self, page: Sequence[Entry]) -> Iterator[pb.WatchResponse]:
        """Tell a page, by what the watcher may read at the time of each response."""
        response, reader = pb.WatchResponse(), Reader(self._seen(), self._principal)
        for entry in page:
            one = change(
                entry, reader, scope=self._asked.scope, kinds=self._asked.kinds
            )
            if one is None:
                continue
            response.changes.append(one)
            response.position = str(entry.position)
            if response.ByteSize() >= RESPONSE_BYTES:
                yield response
                response = pb.WatchResponse()
                reader = Reader(self._seen(), self._principal)
        if response.changes:
            response.position = self.position
            yield response
