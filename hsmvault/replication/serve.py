"""The primary's end of the links: who dials, where they go on, what they may ask."""

import functools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import grpc

from hsmvault import tracing
from hsmvault.model import errors
from hsmvault.model.errors import (
    AccessDenied,
    ConfigurationError,
    IntegrityFailure,
    LogCompacted,
    NotPrimary,
    Overloaded,
    TwoHistories,
    VaultError,
)
from hsmvault.model.lifecycle import RECEIVING
from hsmvault.model.log import Head
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.audit_heads import AuditHeads
from hsmvault.regions.ports import Greeting, LogStore, Workers
from hsmvault.replication.links import FollowerLink, Links
from hsmvault.replication.messages import audit_head_in, executed_out, head_in
from hsmvault.replication.sender import Sender
from hsmvault.replication.snapshot import Snapshots
from hsmvault.replication.trust import Trust, server_options
from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.replication.v1 import replication_service_pb2_grpc as rpc
from hsmvault.telemetry import Event, report
from hsmvault.vault.access import require_principal

_KEYS: Final = "/hsmvault.v1.KeyService/"

FORWARDABLE: Final = frozenset(
    _KEYS + method
    for method in (
        "CreateKey",
        "ImportKey",
        "BeginImport",
        "UpdateKey",
        "UpdateKeyVersion",
        "RotateKey",
        "ActivateKeyVersion",
        "UpdateRotationPolicy",
        "DeleteKey",
        "RecoverKey",
    )
)
"""All that may run on a region's word about who the caller is. Not purge, not roles:
these take the proof itself, a token that the primary verifies by its own issuers."""

_CODES: Final = (
    (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (errors.AccessDenied, grpc.StatusCode.PERMISSION_DENIED),
    (errors.NotFound, grpc.StatusCode.NOT_FOUND),
    (errors.InvalidRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.WrongState, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.IntegrityFailure, grpc.StatusCode.DATA_LOSS),
)
"""Between regions the code suffices; anything else is UNAVAILABLE and tried again."""

_THREADS: Final = 64
"""For chunks and forwarded writes."""
_EACH: Final = 48
"""Of these for one region: the calls that its three partitions let wait at a time."""
_LINKS: Final = 16
"""Threads of their own: a link holds one for as long as it lives."""
_LINKS_EACH: Final = 4
"""Of these for one region: its link, and former ones that are ending."""
_HELLO_SECONDS: Final = 5.0
"""Whoever links says who they are at once."""


class ReplicationServicer(rpc.ReplicationServiceServicer):
    """Serves the extended regions of this primary."""

    def __init__(
        self,
        *,
        trust: Trust,
        store: LogStore,
        workers: Workers,
        links: Links,
        sender: Sender,
        snapshots: Snapshots,
        audit_heads: AuditHeads,
        alarms: Alarms,
    ) -> None:
        self._trust = trust
        self._audit_heads = audit_heads
        self._store = store
        self._workers = workers
        self._links = links
        self._sender = sender
        self._snapshots = snapshots
        self._alarms = alarms
        self._linking = _Shares(_LINKS_EACH)
        self._asking = _Shares(_EACH)

    def Link(  # noqa: N802
        self, request_iterator: Iterator[pb.Up], context: grpc.ServicerContext
    ) -> Iterator[pb.Down]:
        """Feed one follower until its link ends."""
        link: FollowerLink | None = None
        try:
            record = self._peer(context)
            with self._linking.one(record.id):
                link = self._greet(request_iterator, record, context)
                self._links.attach(link)
                report(Event.LINK_UP, subject=link.region, position=_text(link.acked))
                threading.Thread(
                    target=self._listen, args=(link, request_iterator), daemon=True
                ).start()
                yield from self._sender.down(link, context.is_active)
        except VaultError as error:
            if link is not None and isinstance(error, IntegrityFailure):
                # Our own store: what it holds was not made by our partitions.
                self._alarms.sound("store", str(error))
                report(Event.INTEGRITY_FAILED, subject="store", problem=str(error))
            _abort(context, error)
        finally:
            if link is not None:
                self._links.detach(link, "it ended")
                report(Event.LINK_DOWN, subject=link.region, problem=link.closed)

    def FetchChunk(  # noqa: N802
        self, request: pb.FetchChunkRequest, context: grpc.ServicerContext
    ) -> pb.Chunk:
        """One chunk of the snapshot that was made for the caller."""
        try:
            region = self._peer(context).id
            with self._asking.one(region):
                data = self._snapshots.chunk(
                    region, request.snapshot_id, request.number
                )
            return pb.Chunk(data=data)
        except VaultError as error:
            _abort(context, error)

    def Forward(  # noqa: N802
        self, request: pb.ForwardRequest, context: grpc.ServicerContext
    ) -> pb.ForwardReply:
        """Run a write of a caller of another region, by our own copy of the roles."""
        tracing.carry(context.invocation_metadata())
        try:
            region = self._peer(context)
            if region.state not in RECEIVING:
                raise AccessDenied(
                    "regions/{region} is {state}; it may not forward",
                    region=region.id,
                    state=region.state,
                )
            # With the caller's own proof it is for the partition to say what may.
            if request.method not in FORWARDABLE and not request.proof:
                raise AccessDenied(
                    "{method} may not be forwarded; call the primary itself",
                    method=request.method[:100],
                )
            # Nobody is called otherwise; and it is logged, whoever it is.
            require_principal(request.principal)
            with self._asking.one(region.id):
                done = self._workers.execute(
                    request.method,
                    request.request,
                    principal=request.principal,
                    via_region=region.id,
                    proof=request.proof,
                )
            return executed_out(done)
        except VaultError as error:
            _abort(context, error)

    def AppendAuditHead(  # noqa: N802
        self, request: pb.AuditHead, context: grpc.ServicerContext
    ) -> pb.AuditHeadAppended:
        """Take the end of one of the caller's own trails into the log."""
        try:
            region = self._peer(context).id
            with self._asking.one(region):
                self._audit_heads.append(audit_head_in(request), of=region)
        except VaultError as error:
            _abort(context, error)
        return pb.AuditHeadAppended()

    def _peer(self, context: grpc.ServicerContext) -> RegionRecord:
        primary = self._trust.primary().id
        if primary != self._trust.identity.region:
            raise NotPrimary("the primary is {region}", region=primary)
        shown = context.auth_context().get("x509_pem_cert", [b""])
        return self._trust.peer(bytes(shown[0]).decode())

    def _greet(
        self, up: Iterator[pb.Up], record: RegionRecord, context: grpc.ServicerContext
    ) -> FollowerLink:
        silent = threading.Timer(_HELLO_SECONDS, context.cancel)
        silent.start()
        try:
            first = next(up, None)
        except grpc.RpcError:
            first = None
        finally:
            silent.cancel()
        if first is None or not first.HasField("hello"):
            raise errors.InvalidRequest("a link begins with Hello")
        hello = first.hello
        if hello.region != record.id or hello.vault_id != self._trust.identity.vault_id:
            raise errors.InvalidRequest(
                "region {region} of vault {vault} says that it is region {said} of "
                "vault {said_vault}",
                region=record.id,
                vault=self._trust.identity.vault_id,
                said=hello.region[:50],
                said_vault=hello.vault_id[:50],
            )
        head = head_in(hello.head) if hello.HasField("head") else None
        link = FollowerLink(record.id, Greeting(hello.vault_id, head, hello.release))
        if head is None:
            link.wants_snapshot = True
        else:
            link.wants_snapshot = not self._kept(link, head)
            link.acked, link.sent = head, head.position.index
        return link

    def _kept(self, link: FollowerLink, head: Head) -> bool:
        """Tell whether our log still has what follows `head`, which must be in it."""
        try:
            ours = self._store.head_at(head.position.index)
        except LogCompacted:
            return False
        if ours != head:
            raise self._two_histories(link, head, ours)
        return True

    def _listen(self, link: FollowerLink, up: Iterator[pb.Up]) -> None:
        reason = "the region hung up"
        try:
            for message in up:
                if message.HasField("ack"):
                    self._links.told_time(link, message.ack.time_ms)
                    self._acknowledge(link, head_in(message.ack.head))
                elif message.HasField("reply"):
                    self._links.replied(link, message.reply)
        except VaultError as error:
            reason = str(error)
        except grpc.RpcError:
            pass
        self._links.detach(link, reason)

    def _acknowledge(self, link: FollowerLink, head: Head) -> None:
        if head != link.acked and self._store.head_at(head.position.index) != head:
            raise self._two_histories(link, head, None)
        self._alarms.clear(f"follower {link.region}")
        self._links.acknowledged(link, head, newest=self._store.head())

    def _two_histories(
        self, link: FollowerLink, theirs: Head, ours: Head | None
    ) -> IntegrityFailure:
        error = TwoHistories(
            "region {region} holds another history: it is at {theirs}, and this log "
            "{ours}. Nothing was sent; was this region restored from an older copy?",
            region=link.region,
            theirs=theirs.position,
            ours="does not go so far" if ours is None else "differs there",
        )
        self._alarms.sound(f"follower {link.region}", str(error))
        report(Event.LINK_STOPPED, subject=link.region, problem=str(error))
        return error


class _Shares:
    """How much each region has in hand: none may keep the others from their turn."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()

    @contextmanager
    def one(self, region: str) -> Iterator[None]:
        """Take one more in hand, or raise Overloaded."""
        with self._lock:
            if self._held[region] >= self._most:
                raise Overloaded(
                    "region {region} has {most} calls here already; nothing was done",
                    region=region,
                    most=self._most,
                )
            self._held[region] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[region] -= 1


def listen(
    servicer: ReplicationServicer, trust: Trust, address: str
) -> tuple[grpc.Server, int]:
    """Start the private listener; the server, and the port it got."""
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="replication"),
        options=server_options(),
        compression=grpc.Compression.Gzip,
    )
    link: Any = functools.partial(servicer.Link)
    link.experimental_thread_pool = ThreadPoolExecutor(
        _LINKS, thread_name_prefix="link"
    )
    setattr(servicer, "Link", link)  # noqa: B010  # so that the server finds the pool
    rpc.add_ReplicationServiceServicer_to_server(servicer, server)
    try:
        port = server.add_secure_port(address, trust.server_credentials())
    except RuntimeError as error:
        raise ConfigurationError(
            f"cannot listen on {address} for other regions: the port is in use. Stop "
            "what uses it, or change private_port in region.toml"
        ) from error
    server.start()
    return server, port


def _abort(context: grpc.ServicerContext, error: VaultError) -> NoReturn:
    code = next(
        (code for kind, code in _CODES if isinstance(error, kind)),
        grpc.StatusCode.UNAVAILABLE,
    )
    context.abort(code, f"{error.reason}: {error}")
    raise AssertionError  # abort does not return


def _text(head: Head | None) -> str:
    return str(head.position) if head else "nothing"
