"""The extended region's end: dial the primary, take what it sends, and say so."""

import queue
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import grpc

from hsmvault import tracing
from hsmvault.model.audit_records import AuditHead
from hsmvault.model.errors import (
    Overloaded,
    PrimaryUnavailable,
    Unavailable,
    VaultError,
)
from hsmvault.model.log import Head
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.ports import Executed, LogStore
from hsmvault.replication.apply import Applier
from hsmvault.replication.commands import Commands
from hsmvault.replication.messages import (
    audit_head_out,
    executed_in,
    fork_out,
    head_in,
    head_out,
)
from hsmvault.replication.trust import Trust
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.replication.v1 import replication_service_pb2_grpc as rpc
from hsmvault.telemetry import Event, report
from hsmvault.vault.ports import Clock, FollowerState

RELEASE: Final = "0.1.0"
_CHUNK_SECONDS: Final = 30.0
_HEAD_SECONDS: Final = 4.0
_ALARM: Final = "primary"

_TRANSIENT: Final = (Unavailable, Overloaded)
"""Own partitions or store are away for a moment. Anything else is for an operator."""


@dataclass(frozen=True, slots=True)
class Timings:
    """How long what takes, in seconds."""

    heartbeat: float = 0.25
    silence: float = 1.5
    """Without a sign for so long, the primary counts as unreachable."""
    backoff_min: float = 0.1
    backoff_max: float = 2.0
    after_alarm: float = 60.0
    """What did not verify is looked at again, not before an operator could look."""
    poll: float = 0.02
    retry: float = 0.5
    """How soon a job on regions looks again at what it waits for."""
    anchor: float = 10.0
    """How often the newest head is written to the tokens."""
    shown: float = 5.0
    """How long a job waits for something before the region's record says so."""
    upkeep: float = 5.0
    """How often keys that are due are looked for; the clock is looked at, too."""


class Follower:
    """Keeps one link to the primary for as long as the region runs."""

    def __init__(
        self,
        *,
        trust: Trust,
        store: LogStore,
        applier: Applier,
        commands: Commands,
        alarms: Alarms,
        clock: Clock,
        timings: Timings,
    ) -> None:
        self._trust = trust
        self._store = store
        self._applier = applier
        self._commands = commands
        self._alarms = alarms
        self._clock = clock
        self._timings = timings
        self._ending = threading.Event()
        self._retired = threading.Event()
        self._applying = threading.Lock()
        self._session: _Session | None = None
        self._heard = 0.0
        self._head: Head | None = None
        self._synced_ms = 0
        self._thread = threading.Thread(target=self._run, name="follower")

    def start(self) -> None:
        """Begin to dial."""
        self._thread.start()

    def retire(self) -> None:
        """Keep the link, for an answer that is still to go, but leave the store."""
        self._retired.set()
        with self._applying:
            pass  # what was being applied is applied

    def stop(self) -> None:
        """Hang up, and return once what was being applied is applied."""
        self._ending.set()
        session = self._session
        if session is not None:
            session.hang_up()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def primary_reachable(self) -> bool:
        """Whether the primary was heard just now."""
        return (
            self._session is not None
            and time.monotonic() - self._heard < self._timings.silence
        )

    def state(self) -> FollowerState:
        """How far this region has come, by the last head it heard of."""
        ours, theirs = self._store.head(), self._head
        index = ours.position.index if ours else 0
        lag = max(0, theirs.position.index - index) if theirs else 0
        return FollowerState(
            region=self._trust.identity.region,
            connected=self.primary_reachable,
            watermark=str(ours.position) if ours else "",
            lag_entries=lag,
            lag_ms=self._clock() - self._synced_ms if lag and self._synced_ms else 0,
            last_sync_ms=self._synced_ms,
            migration_percent=100 if ours else 0,
        )

    def forward(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        proof: bytes = b"",
        timeout: float,
        policy: str,
    ) -> Executed:
        """Run a write at the primary on behalf of a caller of this region."""
        session = self._session
        if session is None or not self.primary_reachable:
            raise PrimaryUnavailable(
                "the primary region cannot be reached, and the policy {policy!r} lets "
                "no other region write; reads and cryptography go on here",
                policy=policy,
            )
        try:
            return executed_in(
                session.stub.Forward(
                    pb.ForwardRequest(
                        method=method,
                        request=request,
                        principal=principal,
                        proof=proof,
                        timeout_ms=int(timeout * 1000),
                    ),
                    timeout=timeout,
                    metadata=tracing.outgoing(),
                )
            )
        except (grpc.RpcError, ValueError) as error:
            # ValueError: the channel was closed between the look and the call.
            raise Unavailable(
                "the link to the primary broke during the write: it may have "
                "happened. Repeat it with the same request id ({code})",
                code=_code(error),
            ) from error

    def append_audit_head(self, head: AuditHead) -> None:
        """Have the primary take the end of one of our trails into the log."""
        session = self._session
        if session is None:
            raise PrimaryUnavailable("the primary region cannot be reached")
        try:
            session.stub.AppendAuditHead(audit_head_out(head), timeout=_HEAD_SECONDS)
        except (grpc.RpcError, ValueError) as error:
            raise Unavailable(
                "the primary did not take an audit head ({code})", code=_code(error)
            ) from error

    # --- the link ------------------------------------------------------------

    def _run(self) -> None:
        pause, attempt = self._timings.backoff_min, 0
        while not self._ending.is_set():
            heard = self._heard
            alarmed = False
            try:
                self._follow(attempt)
            except grpc.RpcError as error:
                # The primary found that the two logs differ: as if we had.
                alarmed = _code(error) == "DATA_LOSS"
                problem = f"{_code(error)}: {_details(error)}"
                self._down(problem, alarm=alarmed, quiet=attempt > 0)
            except _TRANSIENT as error:
                self._down(str(error), alarm=False, quiet=False)
            except VaultError as error:
                alarmed = True
                self._down(str(error), alarm=True, quiet=False)
            finally:
                self._session = None
            attempt += 1
            if self._heard > heard:
                pause, attempt = self._timings.backoff_min, 0
            if self._retired.is_set():
                return
            # Jitter: the followers of a primary that returns do not dial as one.
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311
            self._ending.wait(self._timings.after_alarm if alarmed else wait)
            pause = min(pause * 2, self._timings.backoff_max)

    def _down(self, problem: str, *, alarm: bool, quiet: bool) -> None:
        if alarm:
            self._alarms.sound(_ALARM, problem)
            report(Event.LINK_STOPPED, subject=_ALARM, problem=problem)
        elif not self._ending.is_set() and not quiet:
            report(Event.LINK_DOWN, subject=_ALARM, problem=problem)

    def _follow(self, attempt: int) -> None:
        endpoints = self._trust.endpoints()
        endpoint = endpoints[attempt % len(endpoints)]
        with grpc.secure_channel(
            endpoint,
            self._trust.client_credentials(),
            options=self._trust.client_options(),
            compression=grpc.Compression.Gzip,
        ) as channel:
            session = _Session(rpc.ReplicationServiceStub(channel), self._hello())
            self._session = session
            if self._ending.is_set():
                return
            worker = threading.Thread(
                target=self._work, args=(session,), name="follower-apply"
            )
            worker.start()
            try:
                with ThreadPoolExecutor(4, thread_name_prefix="command") as pool:
                    for down in session.downs():
                        self._take(session, down, pool)
            except grpc.RpcError:
                if session.failure is None:
                    raise
            finally:
                session.hang_up()
                session.work.put(None)
                worker.join()
        if session.failure is not None:
            raise session.failure

    def _hello(self) -> pb.Up:
        head = self._store.head()
        identity = self._trust.identity
        return pb.Up(
            hello=pb.Hello(
                vault_id=identity.vault_id,
                region=identity.region,
                head=head_out(head) if head else None,
                forks=map(fork_out, self._store.lineage()) if head else (),
                release=RELEASE,
            )
        )

    def _take(
        self, session: "_Session", down: pb.Down, pool: ThreadPoolExecutor
    ) -> None:
        if not session.up:
            session.up = True
            report(Event.LINK_UP, subject=_ALARM)
        self._heard = time.monotonic()
        if down.HasField("heartbeat"):
            if down.heartbeat.HasField("head"):
                self._head = head_in(down.heartbeat.head)
            self._acknowledge(session)
        elif down.HasField("command"):
            pool.submit(self._command, session, down.command)
        else:
            session.work.put(down)

    def _command(self, session: "_Session", command: pb.Command) -> None:
        session.outbox.put(pb.Up(reply=self._commands.execute(command)))

    def _acknowledge(self, session: "_Session") -> None:
        if self._retired.is_set():
            return
        head = self._store.head()
        if head is None:
            return
        if self._head is None or head.position.index >= self._head.position.index:
            self._synced_ms = self._clock()
        ack = pb.Ack(head=head_out(head), time_ms=self._clock())
        session.outbox.put(pb.Up(ack=ack))

    def _work(self, session: "_Session") -> None:
        """Apply what came, in order; what fails ends the session."""
        try:
            while (down := session.work.get()) is not None:
                with self._applying:
                    self._apply(session, down)
        except (grpc.RpcError, ValueError) as error:
            session.failure = Unavailable(
                "a chunk of the snapshot did not come ({code})", code=_code(error)
            )
        except VaultError as error:
            session.failure = error
        finally:
            session.hang_up()

    def _apply(self, session: "_Session", down: pb.Down) -> None:
        if self._retired.is_set():
            return
        if down.HasField("batch"):
            head = self._applier.batch(down.batch)
            if self._head is None or head.position.index > self._head.position.index:
                self._head = head
        else:
            head = self._applier.snapshot(down.snapshot, session.fetcher(down))
            report(Event.SNAPSHOT_INSTALLED, position=str(head.position))
        self._alarms.clear(_ALARM)
        self._acknowledge(session)


class _Session:
    """One link, from Hello to its end."""

    def __init__(self, stub: rpc.ReplicationServiceStub, hello: pb.Up) -> None:
        self.stub = stub
        self.outbox: queue.SimpleQueue[pb.Up | None] = queue.SimpleQueue()
        self.work: queue.SimpleQueue[pb.Down | None] = queue.SimpleQueue()
        self.failure: VaultError | None = None
        self.up = False
        self.outbox.put(hello)
        self._call = stub.Link(iter(self.outbox.get, None))

    def downs(self) -> Iterator[pb.Down]:
        """What comes down, until the link ends."""
        yield from self._call

    def fetcher(self, down: pb.Down) -> "_Fetcher":
        """How to get the chunks of the snapshot that was offered."""
        return _Fetcher(self.stub, down.snapshot.id)

    def hang_up(self) -> None:
        """End the link; harmless if it has ended."""
        self._call.cancel()
        self.outbox.put(None)


@dataclass(frozen=True, slots=True)
class _Fetcher:
    stub: rpc.ReplicationServiceStub
    snapshot: str

    def __call__(self, number: int) -> bytes:
        request = pb.FetchChunkRequest(snapshot_id=self.snapshot, number=number)
        return self.stub.FetchChunk(request, timeout=_CHUNK_SECONDS).data


def _code(error: Exception) -> str:
    # What gRPC raises is a call too; its types do not say so.
    return str(getattr(error, "code", lambda: "UNKNOWN")()).removeprefix("StatusCode.")


def _details(error: grpc.RpcError) -> str:
    return str(getattr(error, "details", lambda: "")())
