"""A gRPC client that knows nothing of us: mTLS, reflection, and dynamic messages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.support.regions import LiveVault, running_vault


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

    assert set(database.get_services()) >= {
        "hsmvault.v1.KeyService",
        "hsmvault.v1.CryptoService",
        "hsmvault.v1.AccessService",
        "hsmvault.v1.RegionService",
        "grpc.health.v1.Health",
    }


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
