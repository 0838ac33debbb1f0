"""The public services as one handler: which RPC, in which pool, behind the guard."""

import re
import secrets
import time
from collections.abc import Mapping, Sequence
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
from hsmvault.api.dispatch import Endpoint
from hsmvault.api.facts import Telling
from hsmvault.api.forwarding import Writes
from hsmvault.api.guard import Guard
from hsmvault.api.health import Attendant
from hsmvault.api.key_wiring import key_servicers
from hsmvault.api.permissions import RULES
from hsmvault.api.pools import BoundedPool
from hsmvault.api.ports import Manager, Partitions, Tracing
from hsmvault.api.regions import RegionServicer
from hsmvault.api.routing import Nowhere, Router
from hsmvault.api.upkeep import AuditedUpkeep
from hsmvault.api.vault import VaultServicer
from hsmvault.api.watching import Watching
from hsmvault.audit.trail import Trail
from hsmvault.model.backup import BACKUP_BYTES
from hsmvault.regions.ports import Executed
from hsmvault.v1 import (
    access_service_pb2,
    crypto_service_pb2,
    key_service_pb2,
    region_service_pb2,
    vault_service_pb2,
)
from hsmvault.vault.access import AccessKeeper
from hsmvault.vault.crypto import Crypto
from hsmvault.vault.definitions import DefinitionKeeper
from hsmvault.vault.invocations import Invocations
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.lasting import Boot, boot_seconds
from hsmvault.vault.memory import Memory
from hsmvault.vault.plans import Plans
from hsmvault.vault.ports import Clock, CounterStore, Hsm, Store, Witness
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
WAITING_THREADS: Final = 16
WATCHING_THREADS: Final = 16
"""Streams at once: each has a thread to itself for as long as it lasts."""
WAITING_MAX: Final = 256
"""Calls that run or queue in the waiting pool before more are refused."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is taken on."""

    message_bytes: int = MESSAGE_BYTES
    metadata_bytes: int = 16 * 1024
    waiting_threads: int = WAITING_THREADS
    waiting_max: int = WAITING_MAX
    watching_threads: int = WATCHING_THREADS


def server_options(limits: Limits) -> list[tuple[str, int]]:
    """Channel arguments that every public server wants, besides its listening."""
    return [
        # The guard says it better than gRPC; this is for what is far beyond.
        (
            "grpc.max_receive_message_length",
            # Whole servers have one limit: that of the RPC which takes most.
            max(2 * limits.message_bytes, BACKUP_BYTES + 1024),
        ),
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
        watching: Watching,
        limits: Limits,
    ) -> None:
        self.memory = memory
        self.upkeep = upkeep
        self._watching = watching
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
        self._watched = BoundedPool(
            limits.watching_threads,
            name="watching",
            # None may queue: it would wait until another one's watcher goes.
            pending_max=limits.watching_threads,
        )
        names = [service.full_name for service in SERVICES]
        self.attendant = Attendant(
            names,
            identify=callers.identify,
            admit=lambda peer: require_network(peer, memory.refresh()),
        )
        self.options = server_options(limits)
        self._handler = Router(
            guard,
            endpoints.values(),
            waiting=self._waiting,
            writing=self._writing,
            batching=self._batching,
            watching=self._watched,
        )

    def add_to(self, server: grpc.Server) -> None:
        """Have a server serve all of it, health and reflection included."""
        server.add_generic_rpc_handlers(
            (self._handler, *self.attendant.handlers, Nowhere(self._guard))
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

    def drain(self) -> None:
        """Have what would last for ever end: watchers go on elsewhere."""
        self._watching.ending.set()

    def close(self) -> None:
        """End the pools, once no server uses them any more."""
        self.drain()
        self.memory.close()
        self._callers.tokens.close()
        for pool in (self._waiting, self._writing, self._batching, self._watched):
            pool.shutdown(wait=True, cancel_futures=True)
        self.attendant.close()


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
    watching = Watching(store, memory)
    maker = KeyMaker(store, hsm, witness, memory, writer, clock, new_id)
    keys, upkeep = key_servicers(maker, manager, boot)
    crypto = Crypto(hsm, Plans(memory, clock), Invocations(counters, memory))
    batching = BatchingServicer(crypto, charge=door.charge)
    servicers: dict[str, tuple[object, ...]] = {
        "KeyService": keys,
        "CryptoService": (batching,),
        "AccessService": (_access(store, memory, writer, clock),),
        "RegionService": (RegionServicer(memory, manager, partitions, clock, store),),
        "VaultService": (VaultServicer(VaultKeeper(store, memory, writer), watching),),
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
        watching=watching,
        limits=limits,
    )


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
                streams=method.server_streaming,
                trailing=service.name != "CryptoService",
            )
    return endpoints


def _body(servicers: Sequence[object], name: str) -> Any:
    """Return the method of the one servicer that has it."""
    return next(getattr(one, name) for one in servicers if hasattr(one, name))
