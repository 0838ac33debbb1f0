"""The README's cold backup: stop, copy the directory, start; and the way back."""

import shutil
from pathlib import Path

import grpc
import pytest

from hsmvault.v1 import (
    crypto_service_pb2,
    crypto_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    resources_pb2,
)
from tests.support.regions import LiveVault, running_vault


def create(vault: LiveVault, key_id: str) -> None:
    key_service_pb2_grpc.KeyServiceStub(vault.channel()).CreateKey(
        key_service_pb2.CreateKeyRequest(
            key_id=key_id,
            key=resources_pb2.Key(spec=resources_pb2.KeySpec(type="EC")),
        ),
        timeout=30,
        wait_for_ready=True,
    )


def sign(vault: LiveVault, key_id: str) -> bytes:
    return bytes(
        crypto_service_pb2_grpc.CryptoServiceStub(vault.channel())
        .Sign(
            crypto_service_pb2.SignRequest(
                name=f"keys/{key_id}", algorithm="ES256", digest=bytes(32)
            ),
            timeout=30,
            wait_for_ready=True,
        )
        .signature
    )


def test_a_copy_of_a_stopped_region_serves_what_it_held(tmp_path: Path) -> None:
    with running_vault(tmp_path / "vault") as vault:
        vault.grant("admin", "Managed HSM Crypto User")
        create(vault, "before")
        vault.north.stop()
        backup = tmp_path / "backup"
        shutil.copytree(vault.north.layout.directory, backup, symlinks=True)
        vault.north.serve()
        create(vault, "after")
        vault.north.stop()

        shutil.rmtree(vault.north.layout.directory)
        shutil.copytree(backup, vault.north.layout.directory, symlinks=True)
        vault.north.serve()

        assert len(sign(vault, "before")) == 64
        with pytest.raises(grpc.RpcError) as refused:
            sign(vault, "after")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
