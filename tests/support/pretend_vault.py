"""A vault that only pretends: real gRPC servers with mTLS, and answers by script.

For what the client does when servers vanish, refuse and redirect; what the vault itself
does is tested on the real one.
"""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

import hsmvault
from hsmvault.regions.certificates import Authority, Certified
from hsmvault.v1 import resources_pb2 as resources
from hsmvault.v1.crypto_service_pb2 import SignRequest, SignResponse
from hsmvault.v1.key_service_pb2 import CreateKeyRequest, GetKeyRequest
from hsmvault.v1.region_service_pb2 import GetTopologyRequest, Topology

Answer = Callable[["PretendPartition", bytes, grpc.ServicerContext], Message]

OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)


def refuse(
    context: grpc.ServicerContext,
    code: grpc.StatusCode,
    reason: str,
    message: str = "",
    *,
    retry_ms: int | None = None,
    **facts: str,
) -> None:
    """End a call as the vault does: with a reason and facts in the details."""
    status = Status(code=code.value[0], message=message or reason)
    status.details.add().Pack(
        ErrorInfo(reason=reason, domain="hsmvault", metadata=facts)
    )
    if retry_ms is not None:
        retry = RetryInfo()
        retry.retry_delay.FromMilliseconds(retry_ms)
        status.details.add().Pack(retry)
    context.set_trailing_metadata(
        (("grpc-status-details-bin", status.SerializeToString()),)
    )
    context.abort(code, message or reason)


@dataclass
class Called:
    """One request that reached a partition."""

    region: str
    partition: str
    method: str
    request: bytes
    metadata: dict[str, str]


class PretendPartition(grpc.GenericRpcHandler):
    """One server. It can be killed, and come back on the same port."""

    def __init__(self, vault: "PretendVault", region: str, name: str) -> None:
        self.vault, self.region, self.name = vault, region, name
        self.port = 0
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listen; the second time on the port of the first."""
        self._server = grpc.server(
            ThreadPoolExecutor(4), handlers=[self], options=OPTIONS
        )
        served = self.vault.served
        self.port = self._server.add_secure_port(
            f"127.0.0.1:{self.port}",
            grpc.ssl_server_credentials(
                [(served.key, served.certificate)],
                root_certificates=self.vault.ca.certificate,
                require_client_auth=True,
            ),
        )
        self._server.start()

    def stop(self) -> None:
        """Vanish: what is in flight is cut off."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = details.method.rpartition("/")[2]

        def run(request: bytes, context: grpc.ServicerContext) -> Message:
            sent = context.invocation_metadata()
            metadata = {key: str(value) for key, value in sent}
            self.vault.note(Called(self.region, self.name, name, request, metadata))
            answer = self.vault.answers.get((self.region, self.name, name))
            answer = answer or self.vault.answers.get((self.region, "", name))
            answer = answer or STANDARD.get(name)
            if answer is None:
                context.abort(grpc.StatusCode.UNIMPLEMENTED, name)
            return answer(self, request, context)

        return grpc.unary_unary_rpc_method_handler(
            run, response_serializer=lambda message: message.SerializeToString()
        )


def _topology(
    partition: PretendPartition, request: bytes, context: grpc.ServicerContext
) -> Message:
    GetTopologyRequest.FromString(request)
    vault = partition.vault
    answer = Topology(vault_id="f" * 32, region=partition.region, position="1.north.9")
    for name, partitions in vault.regions.items():
        answer.regions.add(
            name=f"regions/{name}",
            state=vault.states.get(name, resources.Region.SUCCEEDED),
            primary=name == "north",
            endpoint=partitions[0].address,
            partitions=[
                resources.Partition(name=p.name, endpoint=p.address) for p in partitions
            ],
        )
    return answer


def _sign(
    partition: PretendPartition, request: bytes, context: grpc.ServicerContext
) -> Message:
    asked = SignRequest.FromString(request)
    return SignResponse(
        name=asked.name,
        signature=b"signed " + asked.digest,
        served=resources.Served(
            region=partition.region, partition=partition.name, position="1.north.9"
        ),
    )


def _create(
    partition: PretendPartition, request: bytes, context: grpc.ServicerContext
) -> Message:
    asked = CreateKeyRequest.FromString(request)
    return resources.Key(name=f"keys/{asked.key_id}", position="1.north.10")


def _get(
    partition: PretendPartition, request: bytes, context: grpc.ServicerContext
) -> Message:
    return resources.Key(name=GetKeyRequest.FromString(request).name)


STANDARD: dict[str, Answer] = {
    "GetTopology": _topology,
    "Sign": _sign,
    "CreateKey": _create,
    "GetKey": _get,
}


@dataclass
class PretendVault:
    """Regions of partitions, what they answer, and what they were asked."""

    ca: Authority
    served: Certified
    caller: Certified
    regions: dict[str, list[PretendPartition]] = field(default_factory=dict)
    states: dict[str, "resources.Region.State.ValueType"] = field(default_factory=dict)
    answers: dict[tuple[str, str, str], Answer] = field(default_factory=dict)
    """By (region, partition or "" for all, method)."""
    calls: list[Called] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, called: Called) -> None:
        with self.lock:
            self.calls.append(called)

    def asked(self, method: str) -> list[Called]:
        """Return the calls of one method, in the order in which they came."""
        with self.lock:
            return [c for c in self.calls if c.method == method]

    def partitions(self) -> Iterator[PretendPartition]:
        return itertools.chain.from_iterable(self.regions.values())

    def connect(self, **options: Any) -> "hsmvault.Vault":
        """Connect as a client that knows one address of `north`."""
        given: dict[str, Any] = {
            "endpoints": [self.regions["north"][0].address],
            "certificate": self.caller.certificate,
            "key": self.caller.key,
            "ca": self.ca.certificate,
        }
        return hsmvault.connect(**(given | options))


@contextmanager
def pretend_vault(directory: Path) -> Iterator[PretendVault]:
    """Two regions of three partitions each, `north` the primary."""
    ca = Authority.make(directory / "ca", name="pretended")
    vault = PretendVault(
        ca, ca.server("pretended", hosts=["localhost", "127.0.0.1"]), ca.caller("alice")
    )
    for region in ("north", "south"):
        vault.regions[region] = [
            PretendPartition(vault, region, f"p{n}") for n in range(3)
        ]
    try:
        for partition in vault.partitions():
            partition.start()
        yield vault
    finally:
        for partition in vault.partitions():
            partition.stop()
