"""A write that is only to be validated is decided on in full, and leaves no trace."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import vault_service_pb2 as vault
from hsmvault.v1.resources_pb2 import Key, KeySpec, RoleAssignment, Vault
from tests.support.served import Served, make_key, refusal, served


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


def _create(one: Served, key_id: str) -> Any:
    return one.uma.keys.CreateKey(
        keys.CreateKeyRequest(
            key_id=key_id, key=Key(spec=KeySpec(type="EC")), validate_only=True
        )
    )


def _grant(one: Served, principal: str) -> Any:
    return one.ada.access.CreateRoleAssignment(
        access.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=principal,
                role_definition="roleDefinitions/21dbd100-6940-42c2-9190-5d6cb909625b",
                scope="/keys",
            ),
            validate_only=True,
        )
    )


WRITES: dict[str, Callable[[Served], Any]] = {
    "CreateKey": lambda one: _create(one, "fresh"),
    "ImportKey": lambda one: one.uma.keys.ImportKey(
        keys.ImportKeyRequest(
            key_id="brought",
            jwk=b'{"kty":"oct","k":"AAAAAAAAAAAAAAAAAAAAAA"}',
            validate_only=True,
        )
    ),
    "BeginImport": lambda one: one.uma.keys.BeginImport(
        keys.BeginImportRequest(key_id="brought", validate_only=True)
    ),
    "UpdateKey": lambda one: one.uma.keys.UpdateKey(
        keys.UpdateKeyRequest(
            key=Key(name="keys/live", deletion_protection=True), validate_only=True
        )
    ),
    "RotateKey": lambda one: one.uma.keys.RotateKey(
        keys.RotateKeyRequest(name="keys/live", validate_only=True)
    ),
    "DeleteKey": lambda one: one.uma.keys.DeleteKey(
        keys.DeleteKeyRequest(name="keys/live", validate_only=True)
    ),
    "RecoverKey": lambda one: one.olga.keys.RecoverKey(
        keys.RecoverKeyRequest(name="keys/gone", validate_only=True)
    ),
    "PurgeKey": lambda one: one.olga.keys.PurgeKey(
        keys.PurgeKeyRequest(name="keys/gone", validate_only=True)
    ),
    "UpdateVault": lambda one: one.ada.vault.UpdateVault(
        vault.UpdateVaultRequest(vault=Vault(rate_limit=7), validate_only=True)
    ),
    "CreateRoleAssignment": lambda one: _grant(one, "CN=new"),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_is_only_validated_leaves_no_trace(north: Served, name: str) -> None:
    make_key(north, "live")
    make_key(north, "gone")
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/gone"))
    before, opened = north.store.head(), set(north.hsm.opened)

    answer = WRITES[name](north)

    assert north.store.head() == before
    assert set(north.hsm.opened) == opened
    assert answer.position == ""
    assert getattr(answer, "etag", "") == ""


def test_what_could_not_be_done_is_refused_as_if_it_were_meant(north: Served) -> None:
    make_key(north, "live")

    taken = refusal(lambda: _create(north, "live"))
    denied = refusal(
        lambda: north.tom.keys.DeleteKey(
            keys.DeleteKeyRequest(name="keys/live", validate_only=True)
        )
    )
    stale = refusal(
        lambda: north.uma.keys.DeleteKey(
            keys.DeleteKeyRequest(name="keys/live", etag="old", validate_only=True)
        )
    )
    malformed = refusal(lambda: _create(north, "no/such"))

    assert taken[0] is grpc.StatusCode.ALREADY_EXISTS
    assert denied[0] is grpc.StatusCode.PERMISSION_DENIED
    assert stale[0] is grpc.StatusCode.ABORTED
    assert malformed[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_validated_request_id_is_still_free_for_the_real_one(north: Served) -> None:
    asked = keys.CreateKeyRequest(
        key_id="k", key=Key(spec=KeySpec(type="EC")), request_id="r", validate_only=True
    )

    north.uma.keys.CreateKey(asked)
    asked.validate_only = False
    made = north.uma.keys.CreateKey(asked)

    assert made.position
    assert north.uma.keys.GetKey(keys.GetKeyRequest(name="keys/k")).etag == made.etag
