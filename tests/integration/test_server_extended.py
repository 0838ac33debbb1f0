"""An extended region without officers at hand, from its first start to its purge."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hsmvault.v1 import (
    crypto_service_pb2,
    crypto_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    region_service_pb2,
    region_service_pb2_grpc,
    resources_pb2,
)
from tests.support.regions import LiveRegion, LiveVault, region_message, running_vault

pytestmark = pytest.mark.softhsm

SO_PINS = dict.fromkeys(("p0", "p1", "p2"), "so-pin-12345678")

_ATTACH = """
import json, sys
from pathlib import Path
from hsmvault import config
from hsmvault.local.attending import attend
from hsmvault.server.manager import officer_tokens

def told(line):
    print(line, flush=True)

settings = config.load(Path(sys.argv[1]))
attend(settings.layout, officer_tokens(settings), json.load(sys.stdin), told=told)
"""


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[LiveVault]:
    with running_vault(tmp_path) as vault:
        yield vault


class Operator:
    """`hsmvault ceremony DIR`, with the PINs typed."""

    def __init__(self, region: LiveRegion) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ATTACH, str(region.layout.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(SO_PINS))
        self.process.stdin.close()
        self.told: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.told.extend(self.process.stdout)

    def leave(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def health(vault: LiveVault, region: str) -> int:
    stub = health_pb2_grpc.HealthStub(vault.channel(region))
    return int(
        stub.Check(
            health_pb2.HealthCheckRequest(), timeout=10, wait_for_ready=True
        ).status
    )


def ask_add(vault: LiveVault, region: LiveRegion) -> None:
    stub = region_service_pb2_grpc.RegionServiceStub(vault.channel())
    card = region.card
    stub.AddRegion(
        region_service_pb2.AddRegionRequest(
            region=region_message(card), fingerprint=card.fingerprint
        ),
        timeout=30,
    )


def test_an_extended_region_waits_serves_and_is_purged(vault: LiveVault) -> None:
    """One story, because two regions take long to start."""
    vault.north.wait_serving(manager=True)
    south = vault.init("south", kind="extended", officer=False)
    south.serve(wait=False)
    south.wait_up()

    # It is up, and says what it waits for.
    assert health(vault, "south") == health_pb2.HealthCheckResponse.NOT_SERVING
    topology = region_service_pb2_grpc.RegionServiceStub(vault.channel("south"))
    with pytest.raises(grpc.RpcError) as refused:
        topology.GetTopology(region_service_pb2.GetTopologyRequest(), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "hsmvault region add" in (refused.value.details() or "")
    assert "hsmvault region add" in south.partition("p0")["problem"]

    # Nobody types SO PINs: the region waits for whoever does.
    ask_add(vault, south)
    vault.north.wait_until(
        lambda: vault.states()["south"] == "AWAITING_CEREMONY", what="the ceremony"
    )
    operator = Operator(south)
    try:
        vault.north.wait_until(
            lambda: vault.states()["south"] == "SUCCEEDED",
            what=f"south to be added; {operator.told}",
        )
        south.wait_serving()
        assert health(vault, "south") == health_pb2.HealthCheckResponse.SERVING
        assert any("install" in line for line in operator.told)
        use_in_south(vault)

        # Purged: tokens wiped by the operator's officers, the store deleted.
        vault.remove("south")
        assert south.ended() == 0
    finally:
        operator.leave()
    assert "region south was purged" in south.said
    assert not list(south.layout.store_directory.iterdir())
    assert any("wipe" in line for line in operator.told)
    vault.north.wait_until(
        lambda: vault.states()["south"] == "PURGED", what="south to be gone"
    )

    # What is left of it cannot be served.
    south.serve(wait=False)
    assert south.ended() == 78
    assert "was purged" in south.said
    assert vault.north.stop() == 0


def use_in_south(vault: LiveVault) -> None:
    vault.grant("alice", "Managed HSM Crypto User")
    keys = key_service_pb2_grpc.KeyServiceStub(vault.channel(caller="alice"))
    spec = resources_pb2.KeySpec(type="EC")
    made = keys.CreateKey(
        key_service_pb2.CreateKeyRequest(
            key_id="payroll", key=resources_pb2.Key(spec=spec)
        ),
        timeout=30,
    )
    crypto = crypto_service_pb2_grpc.CryptoServiceStub(
        vault.channel("south", caller="alice")
    )
    signed = crypto.Sign(
        crypto_service_pb2.SignRequest(
            name="keys/payroll", algorithm="ES256", digest=bytes(32)
        ),
        timeout=30,
        metadata=(("min-position", made.position),),
    )
    assert signed.served.region == "south"
