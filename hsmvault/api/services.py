"""The public services as one handler: which RPC, in which pool, behind the guard."""

import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from hsmvault.api.access import AccessServicer
from hsmvault.api.account import Observer
from hsmvault.api.admission import Door, require_network
from hsmvault.api.auditing import Auditing
from hsmvault.api.batch import BatchingServicer
from hsmvault.api.callers import Callers
from hsmvault.api.deleted import DeletedServicer
from hsmvault.api.dispatch import MIN_POSITION, Endpoint
from hsmvault.api.facts import Telling
from hsmvault.api.forwarding import Writes
from hsmvault.api.guard import Guard
from hsmvault.api.health import Attendant
from hsmvault.api.imports import ImportServicer
from hsmvault.api.keys import KeyServicer
from hsmvault.api.permissions import RULES
from hsmvault.api.pools import BoundedPool
from hsmvault.api.ports import Manager, Partitions, Tracing
from hsmvault.api.regions import RegionServicer
from hsmvault.api.rotation import RotationServicer
from hsmvault.api.upkeep import AuditedUpkeep
from hsmvault.api.vault import VaultServicer
from hsmvault.audit.trail import Trail
from hsmvault.model.errors import NotSupported, Overloaded
from hsmvault.regions.ports import Executed
from hsmvault.v1 import (
    access_service_pb2,
    crypto_service_pb2,
    key_service_pb2,
    region_service_pb2,
    vault_service_pb2,
)
from hsmvault.vault.access import AccessKeeper
from hsmvault.vault.catalogue import Catalogue
from hsmvault.vault.crypto import Crypto
from hsmvault.vault.definitions import DefinitionKeeper
from hsmvault.vault.imports import Importer
from hsmvault.vault.invocations import Invocations
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.lasting import Boot, LastingClock, boot_seconds
from hsmvault.vault.life import KeyLife
from hsmvault.vault.memory import Memory
from hsmvault.vault.plans import Plans
from hsmvault.vault.ports import Clock, CounterStore, Hsm, Store, Witness
from hsmvault.vault.rotating import KeyRotation
from hsmvault.vault.upkeep import Upkeep
from hsmvault.vault.vault_keeper import VaultKeeper
from hsmvault.vault.writing import Writer

SERVICES: Final[tuple[ServiceDescriptor, ...]] = (
    key_service_pb2.DESCRIPTOR.services_by_name["KeyService"],
    crypto_service_pb2.DESCRIPTOR.services_by_name["CryptoService"],
    access_service_pb2.DESCRIPTOR.services_by_name["AccessService"],
    region_service_pb2.DESCRIPTOR.services_by_name["RegionService"],
    vault_service_pb2.DESCRIPTOR.services_by_name["VaultService"],
)
MESSAGE_BYTES: Final = 256 * 1024
"""Twice 64 KiB, plaintext and additional data, and room for the rest."""
WAIT_FOR_POSITION: Final = "/hsmvault.v1.RegionService/WaitForPosition"
BATCH: Final = "/hsmvault.v1.CryptoService/Batch"
METHOD_MAX: Final = 256
"""Characters of a path that leads nowhere which are kept."""
WAITING_THREADS: Final = 16
WAITING_MAX: Final = 256
"""Calls that run or queue in the waiting pool before more are refused."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken on."""

    message_bytes: int = MESSAGE_BYTES
    metadata_bytes: int = 16 * 1024
    waiting_threads: int = WAITING_THREADS
    waiting_max: int = WAITING_MAX


def server_options(limits: Limits) -> list[tuple[str, int]]:
    """Channel arguments that every public server wants, besides its listening."""
    return [
        # The guard says it better than gRPC; this is for what is far beyond.
        ("grpc.max_receive_message_length", 2 * limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        # Our client finds black holes by pings, also between calls.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 200),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.max_concurrent_streams", 1024),
    ]


def now_ms() -> int:
    """Wall-clock time."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """128 random bits in hex. From the system: names are no secrets."""
    return secrets.token_hex(16)


_FULL: Final = "too many calls are waiting here; come back, or ask another partition"


class Services:
    """Everything a public server serves. Give it to as many servers as there are."""

    def __init__(
        self,
        guard: Guard,
        endpoints: Mapping[str, Endpoint],
        *,
        memory: Memory,
        callers: Callers,
        upkeep: AuditedUpkeep,
        limits: Limits,
    ) -> None:
        self.memory = memory
        self.upkeep = upkeep
        self._callers = callers
        callers.tokens.start()
        self._guard = guard
        self._endpoints = endpoints
        # Apart: anybody with a certificate may wait for a position that never comes,
        # and must not keep others from writing by it.
        # And batches apart from both: each may keep a thread busy for seconds.
        self._waiting, self._writing, self._batching = (
            BoundedPool(
                limits.waiting_threads, name=name, pending_max=limits.waiting_max
            )
            for name in ("waiting", "writing", "batching")
        )
        names = [service.full_name for service in SERVICES]
        self.attendant = Attendant(
            names,
            identify=callers.admit,
            admit=lambda peer: require_network(peer, memory.refresh()),
        )
        self.options = server_options(limits)
        self._handler = _Handler(
            guard,
            endpoints.values(),
            waiting=self._waiting,
            writing=self._writing,
            batching=self._batching,
        )

    def add_to(self, server: grpc.Server) -> None:
        """Have a server serve all of it, health and reflection included."""
        server.add_generic_rpc_handlers(
            (self._handler, *self.attendant.handlers, _Nowhere(self._guard))
        )

    def pending(self) -> Mapping[str, int]:
        """How many calls run or queue in each pool of those that wait."""
        return {
            "waiting": self._waiting.pending,
            "writing": self._writing.pending,
            "batching": self._batching.pending,
        }

    def set_serving(self, *, serving: bool) -> None:
        """Say by health whether calls are welcome here. At first they are not."""
        self.attendant.set_serving(serving=serving)

    def execute(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        via_region: str,
        seconds: float = 30.0,
        proof: bytes = b"",
    ) -> Executed:
        """Run a call that another region forwarded, by `proof` or on its word."""
        return self._guard.execute(
            self._endpoints.get(method),
            request,
            principal=principal,
            via_region=via_region,
            seconds=seconds,
            proof=proof,
        )

    def close(self) -> None:
        """End the pools, once no server uses them any more."""
        self.memory.close()
        self._callers.tokens.close()
        for pool in (self._waiting, self._writing, self._batching):
            pool.shutdown(wait=True, cancel_futures=True)
        self.attendant.close()


class _Handler(grpc.GenericRpcHandler):
    """Finds an RPC's behaviour: for serving, for writing, or where it may wait."""

    def __init__(
        self,
        guard: Guard,
        endpoints: Iterable[Endpoint],
        *,
        waiting: BoundedPool,
        writing: BoundedPool,
        batching: BoundedPool,
    ) -> None:
        self._waiting = waiting
        self._pools: dict[str, BoundedPool] = {}
        """Where what works for long does so."""
        self._serving: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._working: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._patient: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for endpoint in endpoints:
            method = endpoint.method
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
            for method in self._patient
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
        if pool is None or waits:
            handler, pool = self._patient.get(method), self._waiting
        if handler is not None and pool.full:
            return self._full[method]
        return handler


class _Nowhere(grpc.GenericRpcHandler):
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


def build(
    *,
    region: str,
    partition: str,
    store: Store,
    counters: CounterStore,
    hsm: Hsm,
    witness: Witness,
    manager: Manager,
    partitions: Partitions,
    trail: Trail,
    memory: Memory | None = None,
    callers: Callers | None = None,
    limits: Limits | None = None,
    clock: Clock = now_ms,
    boot: Boot = boot_seconds,
    observers: Sequence[Observer] = (),
    door: Door | None = None,
    traces: Tracing | None = None,
) -> Services:
    """Wire the vault behind its services, for one partition of one region."""
    limits = limits or Limits()
    memory = memory or Memory(store, hsm, region=region)
    callers = callers or Callers()
    writer = Writer(store, hsm, memory, clock)
    door = door or Door()
    keys, upkeep = _keys(
        KeyMaker(store, hsm, witness, memory, writer, clock, new_id), manager, boot
    )
    crypto = Crypto(hsm, Plans(memory, clock), Invocations(counters, memory))
    servicers: dict[str, tuple[object, ...]] = {
        "KeyService": keys,
        "CryptoService": (
            BatchingServicer(
                crypto, region=region, partition=partition, charge=door.charge
            ),
        ),
        "AccessService": (_access(store, memory, writer, clock),),
        "RegionService": (RegionServicer(memory, manager, partitions, clock),),
        "VaultService": (VaultServicer(VaultKeeper(store, memory, writer)),),
    }
    guard = Guard(
        memory,
        Writes(memory, manager),
        callers,
        partition=partition,
        message_bytes=limits.message_bytes,
        auditing=Auditing(trail),
        admissions=(door,),
        observers=observers,
        traces=traces,
    )
    return Services(
        guard,
        _endpoints(servicers),
        memory=memory,
        callers=callers,
        upkeep=AuditedUpkeep(upkeep, trail),
        limits=limits,
    )


def _keys(
    maker: KeyMaker, manager: Manager, boot: Boot
) -> tuple[tuple[object, ...], Upkeep]:
    """Return what serves KeyService, and what looks after keys by itself."""
    store, memory, writer, clock = maker.store, maker.memory, maker.writer, maker.clock
    catalogue = Catalogue(store, memory)
    lasting = LastingClock.of(store, clock, boot)
    life = KeyLife(memory, catalogue, writer, clock, manager, lasting)
    rotation = KeyRotation(store, catalogue, writer, clock)
    servicers = (
        KeyServicer(maker, life, catalogue, memory, rotation),
        RotationServicer(rotation, catalogue, memory, manager),
        DeletedServicer(catalogue),
        ImportServicer(
            Importer(maker.hsm, maker.witness, memory, writer, maker, clock, new_id)
        ),
    )
    return servicers, Upkeep(maker, life)


def _access(
    store: Store, memory: Memory, writer: Writer, clock: Clock
) -> AccessServicer:
    return AccessServicer(
        AccessKeeper(store, memory, writer, clock, new_id),
        DefinitionKeeper(store, writer, clock, new_id),
    )


def _endpoints(servicers: Mapping[str, Sequence[object]]) -> dict[str, Endpoint]:
    """Pair every RPC with its rule and its body; fails at start if one is missing."""
    endpoints = {}
    for service in SERVICES:
        for method in service.methods:
            path = f"/{service.full_name}/{method.name}"
            body = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
            endpoints[path] = Endpoint(
                path,
                RULES[path],
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
                _body(servicers[service.name], body),
                Telling(path, method.input_type, method.output_type),
                trailing=service.name != "CryptoService",
            )
    return endpoints


def _body(servicers: Sequence[object], name: str) -> Any:
    """Return the method of the one servicer that has it."""
    return next(getattr(one, name) for one in servicers if hasattr(one, name))
