"""gRPC clients that know nothing of us: mTLS, reflection, and dynamic messages."""

import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from hsmvault.client import service_config
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1 import crypto_service_pb2, crypto_service_pb2_grpc
from tests.architecture.house import HOUSE
from tests.support.regions import LiveVault, running_vault

SERVICES: Final = {
    "hsmvault.v1.KeyService",
    "hsmvault.v1.CryptoService",
    "hsmvault.v1.AccessService",
    "hsmvault.v1.RegionService",
    "grpc.health.v1.Health",
}
SHIPPED: Final = Path(service_config.__file__).with_suffix(".json")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    home: Path = tmp_path_factory.mktemp("generic")
    with running_vault(home) as running:
        running.grant("admin", "Managed HSM Crypto User", scope="/")
        yield running


def call(channel: grpc.Channel, method: str, **fields: object) -> Any:
    """Call a method as its descriptor, asked of the server, says."""
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service, _, name = method.rpartition(".")
    found = pool.FindServiceByName(service).methods_by_name[name]
    request = GetMessageClass(found.input_type)(**fields)
    answer = GetMessageClass(found.output_type)
    return channel.unary_unary(
        f"/{service}/{name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )(request, timeout=20)


def test_a_generic_client_finds_every_service_by_reflection(
    vault: LiveVault,
) -> None:
    database = ProtoReflectionDescriptorDatabase(vault.channel())

    assert set(database.get_services()) >= SERVICES


def test_a_generic_client_makes_a_key_and_signs_with_it(vault: LiveVault) -> None:
    channel = vault.channel()

    key = call(
        channel,
        "hsmvault.v1.KeyService.CreateKey",
        key_id="generic",
        key={"spec": {"type": "EC", "curve": "P-256"}},
    )
    signed = call(
        channel,
        "hsmvault.v1.CryptoService.Sign",
        name="keys/generic",
        algorithm="ES256",
        digest=bytes(32),
    )

    assert key.position
    assert signed.name.startswith("keys/generic/versions/")
    assert len(signed.signature) == 64
    assert signed.served.region == "north"


def test_the_health_service_says_serving(vault: LiveVault) -> None:
    answer = call(vault.channel(), "grpc.health.v1.Health.Check", service="")

    assert answer.status == 1


# --- with the service config that is shipped


def _everywhere(vault: LiveVault) -> str:
    return "ipv4:" + ",".join(vault.north.partition_endpoints)


@pytest.mark.parametrize("where", ["the region's port", "the partitions' ports"])
def test_a_generic_client_sees_no_failed_call_when_a_partition_is_killed(
    vault: LiveVault, where: str
) -> None:
    """A client of grpcio alone, with nothing but the JSON that is shipped."""
    north = vault.north
    north.wait_serving()
    key = f"killed-{where[4]}"
    call(
        vault.channel(),
        "hsmvault.v1.KeyService.CreateKey",
        key_id=key,
        key={"spec": {"type": "EC", "curve": "P-256"}},
    )
    endpoint = north.endpoint if where == "the region's port" else _everywhere(vault)
    request = crypto_service_pb2.SignRequest(
        name=f"keys/{key}", algorithm="ES256", digest=bytes(32)
    )
    served: list[str] = []
    failed: list[str] = []
    over = threading.Event()
    options = [
        ("grpc.service_config", SHIPPED.read_text()),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.ssl_target_name_override", "127.0.0.1"),
    ]

    with grpc.secure_channel(endpoint, vault.credentials(), options) as channel:
        sign = crypto_service_pb2_grpc.CryptoServiceStub(channel).Sign

        def load() -> None:
            while not over.wait(0.002):
                try:
                    served.append(sign(request).served.partition)
                except grpc.RpcError as error:
                    failed.append(str(error))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        north.wait_until(lambda: len(served) > 100, what="calls")
        ((victim, _),) = Counter(served[-20:]).most_common(1)
        north.kill_partition(victim)
        left = len(served)
        # By siblings, or by the killed one's successor: it is back within a second.
        north.wait_until(lambda: len(served) > left + 200, what="calls")
        over.set()
        for thread in threads:
            thread.join()

    assert not failed
    assert victim in PARTITIONS


def test_a_client_in_javascript_uses_all_of_it(vault: LiveVault) -> None:
    """@grpc/grpc-js and node:crypto: neither gRPC's core nor OpenSSL's Python."""
    vault.north.wait_serving()
    admin = vault.admin
    told = {
        "endpoint": vault.north.endpoint,
        "ca": str(admin.ca),
        "certificate": str(admin.certificate),
        "key": str(admin.key),
        "service_config": str(SHIPPED),
    }

    ended = subprocess.run(
        ["node", str(HOUSE / "tests/javascript/client.js")],
        input=json.dumps(told),
        env={**os.environ, "NODE_PATH": str(HOUSE / ".node/node_modules")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, f"{ended.stderr}\n(./scripts/setup --tests?)"
    found = json.loads(ended.stdout)
    assert set(found["services"]) >= SERVICES
    _signed_as_promised(found["signed"])
    assert found["encrypted"]["same"]
    assert found["encrypted"]["hidden"]
    assert found["encrypted"]["other_context"]["reason"] == "CIPHERTEXT_INVALID"
    _refused_as_promised(found["refusals"])


def _signed_as_promised(signed: dict[str, Any]) -> None:
    assert signed["name"] == "keys/script"
    assert signed["version"].startswith("keys/script/versions/")
    assert signed["served"]["region"] == "north"
    assert signed["verified_here"]
    assert signed["verified_there"]
    assert not signed["forged_here"]
    assert not signed["forged_there"]
    trailers = signed["trailers"]
    assert trailers["hsmvault-position"] == signed["position"]
    assert trailers["hsmvault-region"] == "north"
    assert trailers["hsmvault-partition"] in PARTITIONS


def _refused_as_promised(refusals: dict[str, dict[str, Any]]) -> None:
    expected = {
        "again": ("ALREADY_EXISTS", "ALREADY_EXISTS"),
        "missing": ("NOT_FOUND", "NOT_FOUND"),
        "behind": ("UNAVAILABLE", "REGION_BEHIND"),
    }
    for name, (code, reason) in expected.items():
        refusal = refusals[name]
        assert (refusal["code"], refusal["reason"]) == (code, reason)
        assert refusal["domain"] == "hsmvault"
        assert refusal["type"] == "type.googleapis.com/google.rpc.ErrorInfo"
        assert refusal["said"] == refusal["message"]
        # What is dynamic in the message is in the metadata, too.
        assert any(v in refusal["message"] for v in refusal["metadata"].values())
    assert refusals["stranger"]["code"] == "UNAVAILABLE"
    assert "reason" not in refusals["stranger"]
