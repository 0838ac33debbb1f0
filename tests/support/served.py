"""One region served in this process: real gRPC, mTLS and SQLite, a partition in Python.

Two partitions of one region are two `Served` on one store, each with a memory and a
connection of its own, as two processes have.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from hsmvault.api.account import Observer
from hsmvault.api.admission import Door
from hsmvault.api.callers import Callers
from hsmvault.api.services import Limits, Services, build
from hsmvault.audit.trail import Trail
from hsmvault.model.access import (
    ADMINISTRATOR,
    CRYPTO_AUDITOR,
    CRYPTO_OFFICER,
    CRYPTO_USER,
    RoleDefinition,
)
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.errors import PrimaryUnknown, Unavailable
from hsmvault.model.lifecycle import RegionState
from hsmvault.model.log import GENESIS, Epoch, Kind, Position
from hsmvault.model.orders import Terms
from hsmvault.model.record import Record
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.model.vault_records import EpochRecord, RegionRecord, VaultRecord
from hsmvault.regions.certificates import Authority, Certified
from hsmvault.regions.issuers import Issuer
from hsmvault.regions.ports import Executed
from hsmvault.store.counters import Counters
from hsmvault.store.store import Store
from hsmvault.v1.access_service_pb2 import CreateRoleAssignmentRequest
from hsmvault.v1.access_service_pb2_grpc import AccessServiceStub
from hsmvault.v1.crypto_service_pb2 import SignRequest, SignResponse
from hsmvault.v1.crypto_service_pb2_grpc import CryptoServiceStub
from hsmvault.v1.key_service_pb2 import CreateKeyRequest
from hsmvault.v1.key_service_pb2_grpc import KeyServiceStub
from hsmvault.v1.region_service_pb2_grpc import RegionServiceStub
from hsmvault.v1.resources_pb2 import Key, KeySpec, RoleAssignment
from hsmvault.v1.vault_service_pb2_grpc import VaultServiceStub
from hsmvault.vault.checked import KINDS
from hsmvault.vault.ports import (
    Awaited,
    Blob,
    Change,
    FollowerState,
    Generated,
    Material,
    PartitionState,
    RemovalOrder,
    ReplicationState,
)
from tests.support.fakes import FakeHsm

VAULT_ID = "0123456789abcdef0123456789abcdef"
PAGE_KEY = bytes(range(32))
ROLES = {
    "ada": ADMINISTRATOR,
    "olga": CRYPTO_OFFICER,
    "uma": CRYPTO_USER,
    "tom": CRYPTO_AUDITOR,
}
"""Callers of the region, by common name, and the role each has at `/`."""


@dataclass
class Siblings:
    """The other partitions of the region, by name; without any, nobody answers."""

    others: Mapping[str, FakeHsm] = field(default_factory=dict)

    def self_test(self, _material: Material, /) -> bool:
        return False

    def holds_import(self, partition: str, import_id: str) -> bool:
        return self._one(partition).holds_import(import_id)

    def finish_import(
        self,
        partition: str,
        import_id: str,
        version: str,
        blob: Blob,
        *,
        regions: Sequence[str],
    ) -> Generated:
        one = self._one(partition)
        return one.finish_import(import_id, version, blob, regions=regions)

    def _one(self, partition: str) -> FakeHsm:
        if partition not in self.others:
            raise Unavailable("partition {name} does not answer", name=partition)
        return self.others[partition]


@dataclass
class FakeManager:
    """A pool manager by script."""

    primary: "Served | None" = None
    """Where forwarded calls run; None: the primary cannot be reached."""
    awaited: Awaited = field(default_factory=lambda: Awaited(reached=True))
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    on_forward: Callable[[], object] = lambda: None
    past: Callable[[int], None] = lambda _date_ms: None
    """Raises ClockUntrusted for a date that no clock confirms."""
    followers: tuple[FollowerState, ...] = ()

    def forward(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        proof: bytes = b"",
        seconds: float,
    ) -> Executed:
        self.asked.append(("forward", method, principal))
        if self.primary is None:
            raise PrimaryUnknown("the primary does not answer")
        done = self.primary.services.execute(
            method,
            request,
            principal=principal,
            via_region="south",
            proof=proof,
            seconds=seconds,
        )
        self.on_forward()
        return done

    def await_watermark(
        self, position: Position, *, regions: int, seconds: float
    ) -> Awaited:
        assert seconds >= 0
        self.asked.append(("await", str(position), regions))
        return self.awaited

    def replication(self) -> ReplicationState:
        return ReplicationState(
            primary_reachable=self.primary is not None, followers=self.followers
        )

    def require_past(self, date_ms: int) -> None:
        self.asked.append(("require_past", date_ms))
        self.past(date_ms)

    def add_region(self, record: bytes, *, principal: str, terms: Terms) -> Executed:
        assert terms.method.endswith("AddRegion")
        self.asked.append(("add", principal))
        return Executed(record, b"", "1.north.9")

    def remove_region(
        self, order: RemovalOrder, *, principal: str, terms: Terms
    ) -> Executed:
        assert terms.method.endswith("RemoveRegion")
        self.asked.append(("remove", order.region, order.force, principal))
        record = region("south", RegionState.DELETING)
        return Executed(record.to_bytes(), b"", "1.north.9")


class OnePartition:
    """A region of one partition."""

    def states(self) -> Sequence[PartitionState]:
        return [PartitionState("p0", serving=True, open_keys=3)]


def region(
    name: str, state: RegionState = RegionState.SUCCEEDED, *, primary: bool = False
) -> RegionRecord:
    """A region's record."""
    return RegionRecord(
        name=f"regions/{name}",
        revision=1,
        state=state,
        primary=primary,
        zone="eu",
        endpoint=f"{name}.example:8440",
        partition_endpoints=(),
        private_endpoint=f"{name}.example:8450",
        partitions=(),
        certificate="",
        create_ms=1,
        update_ms=1,
    )


def genesis(*others: Record, settings: VaultRecord | None = None) -> list[Record]:
    """The first records of a vault in `north`, with one caller per role."""
    vault = settings or VaultRecord(VAULT_ID, 1, 1, page_key=PAGE_KEY)
    assignments = [
        AssignmentRecord(
            f"roleAssignments/{who}", 1, f"CN={who}", role.name, "/", 1, "CN=ada"
        )
        for who, role in ROLES.items()
    ]
    return [
        EpochRecord(1, "north", 1, 0, GENESIS),
        vault,
        region("north", primary=True),
        *assignments,
        *others,
    ]


def change(record: Any, hsm: FakeHsm) -> Change:
    """A change with the MAC of the region that `hsm` is of."""
    row = StoredRecord(
        KINDS[type(record)], record.resource, record.revision, record.to_bytes()
    )
    (mac,) = hsm.mac([row.statement(VAULT_ID)])
    return Change(dataclasses.replace(row, mac=mac))


@dataclass
class Served:
    """One partition, serving."""

    services: Services
    hsm: FakeHsm
    store: Store
    manager: FakeManager
    port: int
    ca: Authority
    trail: Trail
    token_port: int = 0
    """For callers with tokens, where issuers were named."""
    _channels: list[grpc.Channel] = field(default_factory=list)
    _callers: dict[str, "Caller"] = field(default_factory=dict)

    def __getattr__(self, name: str) -> "Caller":
        """`served.uma` is the caller CN=uma, connected."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._callers:
            self._callers[name] = self.connect(self.ca.caller(name))
        return self._callers[name]

    def connect(self, certified: Certified) -> "Caller":
        channel = grpc.secure_channel(
            f"localhost:{self.port}",
            grpc.ssl_channel_credentials(
                self.ca.certificate, certified.key, certified.certificate
            ),
        )
        self._channels.append(channel)
        return Caller(channel)

    def bearing(self, token: str) -> "Caller":
        """Connect without a certificate, and show this token with each call."""
        channel = grpc.secure_channel(
            f"localhost:{self.token_port}",
            grpc.composite_channel_credentials(
                grpc.ssl_channel_credentials(self.ca.certificate),
                grpc.access_token_call_credentials(token),
            ),
        )
        self._channels.append(channel)
        return Caller(channel)

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class Caller:
    """The services as one caller sees them."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.keys = KeyServiceStub(channel)
        self.crypto = CryptoServiceStub(channel)
        self.access = AccessServiceStub(channel)
        self.regions = RegionServiceStub(channel)
        self.vault = VaultServiceStub(channel)


def _paired(hsm: FakeHsm) -> FakeHsm:
    for other in {"north", "south"} - {hsm.region}:
        hsm.add_pair(other)
    return hsm


@contextmanager
def served(
    directory: Path,
    *,
    own: str = "north",
    records: Sequence[Record] | None = None,
    keys: MutableMapping[str, bytes] | None = None,
    ca: Authority | None = None,
    manager: FakeManager | None = None,
    partition: str = "p0",
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    boot: Callable[[], float] = lambda: 0.0,
    limits: Limits | None = None,
    observers: Sequence[Observer] = (),
    issuers: Sequence[Issuer] = (),
    door: Door | None = None,
    siblings: Siblings | None = None,
) -> Iterator[Served]:
    """Serve a region whose store lies in `directory`; founded if it is empty."""
    hsm = _paired(FakeHsm(partition, own, keys, vault_id=VAULT_ID))
    ca = ca or Authority.make(directory / f"ca-{own}-{partition}", name="test")
    manager = manager or FakeManager()
    url = f"sqlite:///{own}.db"
    with (
        _audited(directory, own, partition) as trail,
        Store.open(url, region=own, home=directory) as store,
        closing(Counters.open(url, home=directory)) as counters,
    ):
        if store.head() is None and own == "north":
            _found(store, [change(record, hsm) for record in records or genesis()])
        services = build(
            region=own,
            partition=partition,
            store=store,
            counters=counters,
            hsm=hsm,
            witness=siblings or Siblings(),
            manager=manager,
            partitions=OnePartition(),
            clock=clock,
            boot=boot,
            limits=limits,
            observers=observers,
            callers=Callers(issuers),
            trail=trail,
            door=door,
        )
        with ThreadPoolExecutor(4) as pool:
            server = grpc.server(pool, options=services.options)
            services.add_to(server)
            port, token_port = _listening(server, ca, tokens=bool(issuers))
            server.start()
            services.set_serving(serving=True)
            one = Served(services, hsm, store, manager, port, ca, trail, token_port)
            try:
                yield one
            finally:
                one.close()
                server.stop(None).wait()
                services.close()


def _found(store: Store, changes: Sequence[Change]) -> None:
    store.found(changes, time_ms=1, epoch=Epoch(1, "north"))


@contextmanager
def _audited(directory: Path, region: str, partition: str) -> Iterator[Trail]:
    trails = directory / f"audit-{region}"
    trail = Trail(trails, vault_id=VAULT_ID, region=region, process=partition)
    trail.open()
    with closing(trail):
        yield trail


def _listening(server: grpc.Server, ca: Authority, *, tokens: bool) -> tuple[int, int]:
    """Listen for callers with certificates, and perhaps for those with tokens."""
    certified = ca.server("north", hosts=["localhost"])
    shown = [(certified.key, certified.certificate)]
    port = server.add_secure_port(
        "localhost:0",
        grpc.ssl_server_credentials(shown, ca.certificate, require_client_auth=True),
    )
    if not tokens:
        return port, 0
    return port, server.add_secure_port(
        "localhost:0", grpc.ssl_server_credentials(shown)
    )


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """Make a call that must fail; return its code, reason and message."""
    try:
        call()
    except grpc.RpcError as error:
        info = error_info(error)
        return error.code(), info.reason, error.details() or ""
    raise AssertionError("the call was answered")


def refusal_in_time(
    call: Callable[[float], object], seconds: float = 0.4
) -> tuple[grpc.StatusCode, str, str]:
    """Make a call that must be refused before the deadline that it is given.

    Made again with twice the time, where a busy machine let the deadline come first.
    """
    while True:
        told = refusal(partial(call, seconds))
        if told[0] is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return told
        assert seconds < 60, told
        seconds *= 2


def error_info(error: Any) -> ErrorInfo:
    """The ErrorInfo of a status."""
    info = ErrorInfo()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status = Status.FromString(value)
            assert (status.code, status.message) == (
                error.code().value[0],
                error.details(),
            )
            status.details[0].Unpack(info)
            assert info.domain == "hsmvault"
    return info


def follow(
    source: Served, target: Served, *, material: bool = True
) -> list[tuple[WrappedKey, bytes]]:
    """Bring an extended region's store up to its primary's, as replication does.

    Returns the wrapped keys, which come later when `material` is not wanted.
    """
    after = target.store.head()
    entries = source.store.entries(after.position.index if after else 0)
    kinds = {kind: wanted for wanted, kind in KINDS.items()}
    states, wrapped = [], []
    for entry in entries:
        record: Any = kinds[entry.kind].from_bytes(entry.record)
        states.append(change(record, target.hsm).stored)
        if entry.kind is Kind.KEY_VERSION:
            row = source.store.wrapped(record.version, target.hsm.region)
            if row is not None:
                own = target.hsm.rewrap(record.spec, record.public_key, row[0])
                (mac,) = target.hsm.mac([own.statement(VAULT_ID)])
                wrapped.append((own, mac))
    if not entries:
        return []
    target.store.apply(
        entries,
        states=states,
        wrapped=wrapped if material else (),
        expected_head=source.store.head(),
    )
    return wrapped


def make_key(
    one: Served,
    key_id: str,
    kind: str = "EC",
    *,
    bits: int = 0,
    curve: str = "",
    **settings: Any,
) -> Key:
    """Have the Crypto User make a key."""
    spec = KeySpec(type=kind, bits=bits, curve=curve)
    return one.uma.keys.CreateKey(
        CreateKeyRequest(key_id=key_id, key=Key(spec=spec, **settings))
    )


def signed(caller: Caller, name: str, **options: Any) -> SignResponse:
    """Sign a digest of zeros by ES256."""
    return caller.crypto.Sign(
        SignRequest(name=name, algorithm="ES256", digest=bytes(32)), **options
    )


def grant(
    one: Served, who: str, role: RoleDefinition, scope: str = "/", *, by: str = "ada"
) -> RoleAssignment:
    """Have an Administrator assign a role to CN=`who`."""
    return getattr(one, by).access.CreateRoleAssignment(
        CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=f"CN={who}", role_definition=role.name, scope=scope
            )
        )
    )
