"""The partition servers of this region, as the pool manager works with them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self, TypeVar

from hsmvault import tracing
from hsmvault.local import convert, measures, sockets
from hsmvault.local.status import Unanswered, raised
from hsmvault.local.v1 import local_service_pb2 as pb
from hsmvault.local.v1 import local_service_pb2_grpc as pb_grpc
from hsmvault.metrics import Sample
from hsmvault.model.errors import Overloaded, Unavailable
from hsmvault.model.log import Head, Position
from hsmvault.model.material import Blob, Generated, Material
from hsmvault.model.stored import WrappedKey
from hsmvault.regions.layout import PARTITIONS, Layout
from hsmvault.regions.ports import Arrived, Executed
from hsmvault.vault.ports import PartitionState
from hsmvault.vault.upkeep import Chore

T = TypeVar("T")
Item = TypeVar("Item")

QUICK_SECONDS: Final = 2.0
"""For what takes a partition milliseconds."""
WORK_SECONDS: Final = 60.0
"""For a batch: opening 100 RSA keys takes a busy machine seconds."""
EXECUTE_SECONDS: Final = 70.0
"""A forwarded write may generate RSA-4096."""

_PART_MIN: Final = 8
"""Smaller batches are not worth spreading."""


class PartitionClient:
    """One partition server, over its socket."""

    def __init__(self, layout: Layout, name: str) -> None:
        """Connect when first used."""
        self.name = name
        self._channel = sockets.dial(layout.socket(name))
        self.stub = pb_grpc.PartitionWorkStub(self._channel)

    def call(self, method: Callable[..., T], message: object, *, timeout: float) -> T:
        """Ask; raises what the partition raised, or Unanswered."""
        with raised(f"partition {self.name}"):
            return method(message, timeout=timeout)

    def state(self) -> PartitionState:
        """How it is, or Unanswered."""
        message = self.call(self.stub.Status, pb.StatusRequest(), timeout=QUICK_SECONDS)
        return PartitionState(
            name=message.name,
            serving=message.serving,
            problem=message.problem,
            position=message.position,
            open_keys=message.open_keys,
        )

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class PartitionClients:
    """All partitions of this region: regions.ports.Workers. Any thread may ask."""

    def __init__(self, layout: Layout) -> None:
        """Connect when first used."""
        self._clients = {name: PartitionClient(layout, name) for name in PARTITIONS}
        self._turn = itertools.count()
        self._pool = ThreadPoolExecutor(
            2 * len(PARTITIONS), thread_name_prefix="workers"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.shutdown(cancel_futures=True)
        for client in self._clients.values():
            client.close()

    def states(self) -> list[PartitionState]:
        """How each partition is; one that does not answer does not serve."""
        return [self._state(client) for client in self._clients.values()]

    def _state(self, client: PartitionClient) -> PartitionState:
        try:
            return client.state()
        except Unavailable as error:
            return PartitionState(client.name, serving=False, problem=str(error))

    def samples(self) -> dict[str, list[Sample]]:
        """What each partition measures; nothing of one that does not answer."""
        asked = self._pool.map(self._samples, self._clients.values())
        return dict(zip(self._clients, asked, strict=True))

    def _samples(self, client: PartitionClient) -> list[Sample]:
        try:
            reply = client.call(
                client.stub.Measure, pb.MeasureRequest(), timeout=QUICK_SECONDS
            )
        except Unavailable:
            return []
        return measures.samples(reply)

    def mac(self, statements: Sequence[bytes]) -> list[bytes]:
        """MAC each statement with the region's integrity key."""

        def work(client: PartitionClient, part: Sequence[bytes]) -> list[bytes]:
            request = pb.MacRequest(statements=part)
            reply = client.call(client.stub.Mac, request, timeout=WORK_SECONDS)
            return list(reply.macs)

        return self._spread(statements, work)

    def rewrap(self, arrived: Sequence[Arrived]) -> list[tuple[WrappedKey, bytes]]:
        """Open under the pair key, wrap under the region key, and MAC; in order."""

        def work(
            client: PartitionClient, part: Sequence[Arrived]
        ) -> list[tuple[WrappedKey, bytes]]:
            request = pb.RewrapRequest(
                materials=[convert.material_message(one.material) for one in part]
            )
            return _wrapped(
                client.call(client.stub.Rewrap, request, timeout=WORK_SECONDS)
            )

        return self._spread(arrived, work)

    def seal(
        self, materials: Sequence[Material], region: str
    ) -> list[tuple[WrappedKey, bytes]]:
        """Wrap existing versions for another region, and MAC; in order."""

        def work(
            client: PartitionClient, part: Sequence[Material]
        ) -> list[tuple[WrappedKey, bytes]]:
            request = pb.SealRequest(
                materials=[convert.material_message(one) for one in part], region=region
            )
            return _wrapped(
                client.call(client.stub.Seal, request, timeout=WORK_SECONDS)
            )

        return self._spread(materials, work)

    def sign(self, statement: bytes) -> tuple[str, bytes]:
        """Sign with an identity key: the partition's name and r||s."""
        request = pb.SignStatementRequest(statement=statement)
        reply = self._any(
            lambda client: client.call(
                client.stub.SignStatement, request, timeout=QUICK_SECONDS
            )
        )
        return reply.partition, reply.signature

    def pair_keys(self, region: str) -> Mapping[str, bool]:
        """Which partitions hold both pair keys with `region`; all must answer."""
        request = pb.PairKeysRequest(region=region)
        return {name: reply.present for name, reply in self._each_pair(request).items()}

    def drop_pair_keys(self, region: str) -> None:
        """Destroy the pair keys with `region` in every partition; all must answer."""
        self._each_pair(pb.PairKeysRequest(region=region, drop=True))

    def _each_pair(self, request: pb.PairKeysRequest) -> dict[str, pb.PairKeysReply]:
        return {
            name: client.call(client.stub.PairKeys, request, timeout=WORK_SECONDS)
            for name, client in self._clients.items()
        }

    def write_anchor(self, head: Head) -> None:
        """Have every partition that answers remember the head."""
        request = convert.head_message(head)
        answered = 0
        for client in self._clients.values():
            try:
                client.call(client.stub.WriteAnchor, request, timeout=QUICK_SECONDS)
            except Unavailable:
                continue  # it takes the head from the store when it ends, or starts
            answered += 1
        if not answered:
            raise Unavailable("no partition of this region answers")

    def execute(
        self,
        method: str,
        request: bytes,
        *,
        principal: str,
        via_region: str,
        proof: bytes = b"",
    ) -> Executed:
        """Run a public RPC as `principal`, by `proof` or on the word of `via_region`.

        Not repeated on a sibling: a write that got no answer may have happened.
        """
        client = self._serving()
        message = pb.ForwardRequest(
            method=method,
            request=request,
            principal=principal,
            via_region=via_region,
            proof=proof,
            timeout_ms=int(EXECUTE_SECONDS * 1000),
        )
        with raised(f"partition {client.name}"):
            done = client.stub.Execute(
                message, timeout=EXECUTE_SECONDS, metadata=tracing.outgoing()
            )
        return Executed(done.response, done.status, done.position)

    def upkeep(self, chore: Chore, name: str, *, incarnation: str) -> Position:
        """Have one partition do a chore to a key; another is asked the next time."""
        client = self._serving()
        message = pb.UpkeepRequest(chore=chore, name=name, incarnation=incarnation)
        done = client.call(client.stub.Upkeep, message, timeout=EXECUTE_SECONDS)
        return Position.parse(done.position)

    def _serving(self) -> PartitionClient:
        for client in self._in_turn():
            if self._state(client).serving:
                return client
        raise Unavailable("no partition of this region serves")

    def _in_turn(self) -> list[PartitionClient]:
        clients = list(self._clients.values())
        first = next(self._turn) % len(clients)
        return clients[first:] + clients[:first]

    def _any(self, work: Callable[[PartitionClient], T]) -> T:
        """Have one partition do it, and another if it cannot now."""
        problem: Unavailable | Overloaded | None = None
        for client in self._in_turn():
            try:
                return work(client)
            except (Unavailable, Overloaded) as error:
                problem = error
        raise Unavailable(
            "no partition of this region can do it now: {problem}", problem=problem
        ) from problem

    def _spread(
        self,
        items: Sequence[Item],
        work: Callable[[PartitionClient, Sequence[Item]], list[T]],
    ) -> list[T]:
        """Work on parts of a batch in all partitions at once; answers in order."""
        if not items:
            return []
        size = max(_PART_MIN, -(-len(items) // len(self._clients)))
        parts = [items[at : at + size] for at in range(0, len(items), size)]
        if len(parts) == 1:
            return self._any(lambda client: work(client, items))

        def part_done(part: Sequence[Item]) -> list[T]:
            return self._any(lambda client: work(client, part))

        done = list(self._pool.map(part_done, parts))
        return list(itertools.chain.from_iterable(done))


def _wrapped(reply: pb.WrappedReply) -> list[tuple[WrappedKey, bytes]]:
    return [convert.wrapped_key(message) for message in reply.wrapped]


class SiblingWitness:
    """The other partitions of this region: vault.ports.Witness."""

    def __init__(self, layout: Layout, *, own: str) -> None:
        """Ask every partition but our own."""
        self._siblings = [PartitionClient(layout, p) for p in PARTITIONS if p != own]
        self._turn = itertools.count()

    def self_test(self, material: Material) -> bool:
        """Have a sibling open and use it; False: none answers quickly."""
        first = next(self._turn) % len(self._siblings)
        message = convert.material_message(material)
        for client in self._siblings[first:] + self._siblings[:first]:
            try:
                client.call(client.stub.SelfTest, message, timeout=QUICK_SECONDS)
            except (Unanswered, Unavailable, Overloaded):
                continue
            return True
        return False

    def holds_import(self, partition: str, import_id: str) -> bool:
        """Tell whether that partition has the wrapping key."""
        client = self._named(partition)
        request = pb.HoldsImportRequest(import_id=import_id)
        reply = client.call(client.stub.HoldsImport, request, timeout=QUICK_SECONDS)
        return bool(reply.holds)

    def finish_import(
        self,
        partition: str,
        import_id: str,
        version: str,
        blob: Blob,
        *,
        regions: Sequence[str],
    ) -> Generated:
        """Have that partition open what came under its wrapping key, once."""
        client = self._named(partition)
        message = convert.finish_message(import_id, version, blob, regions)
        return convert.generated(
            client.call(client.stub.FinishImport, message, timeout=WORK_SECONDS)
        )

    def _named(self, partition: str) -> PartitionClient:
        for client in self._siblings:
            if client.name == partition:
                return client
        raise Unavailable("there is no partition {name} here", name=partition[:64])

    def close(self) -> None:
        """Close the connections."""
        for client in self._siblings:
            client.close()
