"""A region of the vault, or whoever has its private TLS key, takes all it can get.

The attacker is let in by the primary's private listener, as the region that they are.
"""

import queue
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hsmvault.replication.v1 import replication_service_pb2 as pb
from hsmvault.replication.v1 import replication_service_pb2_grpc as rpc
from tests.support.nodes import TestRegion, TestVault, two_regions, until


@pytest.fixture
def vault(tmp_path: Path) -> TestVault:
    return TestVault(tmp_path)


def _stub(north: TestRegion, attacker: TestRegion) -> rpc.ReplicationServiceStub:
    channel = grpc.secure_channel(
        f"127.0.0.1:{north.port}",
        grpc.ssl_channel_credentials(
            north.private.certificate,
            attacker.private.key,
            attacker.private.certificate,
        ),
        options=[
            ("grpc.ssl_target_name_override", f"{north.name}.hsmvault.internal"),
            ("grpc.use_local_subchannel_pool", 1),
        ],
    )
    return rpc.ReplicationServiceStub(channel)


def _silent(said: "queue.SimpleQueue[pb.Up | None]") -> Iterator[pb.Up]:
    yield from iter(said.get, None)


def test_links_that_say_nothing_keep_nobody_from_being_fed(vault: TestVault) -> None:
    with two_regions(vault) as (_, south, _):
        stub = _stub(vault.north, south)
        said: queue.SimpleQueue[pb.Up | None] = queue.SimpleQueue()
        links = [stub.Link(_silent(said)) for _ in range(100)]
        refused = pb.FetchChunkRequest(snapshot_id="none")
        with pytest.raises(grpc.RpcError) as told:
            stub.FetchChunk(refused, timeout=30)
        assert told.value.code() is grpc.StatusCode.NOT_FOUND

        vault.north.create("a")

        until(lambda: south.index == vault.north.index)
        ended = {link.code() for link in links}
        assert grpc.StatusCode.OK not in ended
        for _ in links:
            said.put(None)


@pytest.mark.parametrize("principal", ["", "CN=" + "x" * 1_000_000, "CN=a\nb", "root"])
def test_a_region_forwards_for_nobody_whose_name_is_no_principal(
    vault: TestVault, principal: str
) -> None:
    with two_regions(vault) as (_, south, _):
        stub = _stub(vault.north, south)
        request = pb.ForwardRequest(
            method="/hsmvault.v1.KeyService/CreateKey", principal=principal
        )

        with pytest.raises(grpc.RpcError) as told:
            stub.Forward(request, timeout=30)

    assert told.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(told.value.details() or "") < 1000
    assert vault.north.workers.executed == []
