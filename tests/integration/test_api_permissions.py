"""Every role on every RPC, by exact status; and what a refusal does not tell."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from hsmvault.api.permissions import RULES
from hsmvault.model.access import CRYPTO_USER
from hsmvault.model.vault_records import RegionRecord
from hsmvault.regions.card import Card
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1 import region_service_pb2 as regions
from hsmvault.v1.resources_pb2 import Key, KeySpec, KeyVersion, Region, RoleAssignment
from tests.support.served import (
    Served,
    grant,
    make_key,
    refusal,
    region,
    served,
    signed,
)

StatusCode = grpc.StatusCode
OK = StatusCode.OK
NOT_FOUND = StatusCode.NOT_FOUND
INVALID = StatusCode.INVALID_ARGUMENT
DENIED = StatusCode.PERMISSION_DENIED
MISSING = "keys/missing"
MISSING_VERSION = f"{MISSING}/versions/{'0' * 32}"

ADMIN, OFFICER, USER, AUDITOR = ("ada",), ("olga",), ("uma",), ("tom",)
EVERYONE = ("ada", "olga", "uma", "tom", "eve")
ROLES_READERS = ADMIN + OFFICER + USER + AUDITOR


@dataclass(frozen=True)
class Case:
    """What a caller who may is answered; all others are denied."""

    request: Message
    allowed: tuple[str, ...]
    code: grpc.StatusCode


def _card(name: str) -> RegionRecord:
    record = region(name)
    return dataclasses.replace(record, endpoint="e:1", private_endpoint="p:1")


CASES: dict[str, Case] = {
    "KeyService/CreateKey": Case(
        keys.CreateKeyRequest(key_id="ec", key=Key(spec=KeySpec(type="EC"))),
        USER,
        StatusCode.ALREADY_EXISTS,
    ),
    "KeyService/GetKey": Case(keys.GetKeyRequest(name="keys/ec"), USER + AUDITOR, OK),
    "KeyService/ListKeys": Case(keys.ListKeysRequest(), USER + AUDITOR, OK),
    "KeyService/ListKeyVersions": Case(
        keys.ListKeyVersionsRequest(parent=MISSING), USER + AUDITOR, NOT_FOUND
    ),
    "KeyService/UpdateKey": Case(
        keys.UpdateKeyRequest(key=Key(name=MISSING, enabled=True)), USER, NOT_FOUND
    ),
    "KeyService/UpdateKeyVersion": Case(
        keys.UpdateKeyVersionRequest(
            key_version=KeyVersion(name=MISSING_VERSION, enabled=True)
        ),
        USER,
        NOT_FOUND,
    ),
    "KeyService/RotateKey": Case(keys.RotateKeyRequest(name=MISSING), USER, NOT_FOUND),
    "KeyService/DeleteKey": Case(keys.DeleteKeyRequest(name=MISSING), USER, NOT_FOUND),
    "KeyService/RecoverKey": Case(
        keys.RecoverKeyRequest(name=MISSING), OFFICER, NOT_FOUND
    ),
    "KeyService/PurgeKey": Case(keys.PurgeKeyRequest(name=MISSING), OFFICER, NOT_FOUND),
    "KeyService/GetPublicKey": Case(
        keys.GetPublicKeyRequest(name="keys/ec"), USER + AUDITOR, OK
    ),
    "CryptoService/Sign": Case(
        crypto.SignRequest(name="keys/ec", algorithm="ES256", digest=bytes(32)),
        USER,
        OK,
    ),
    "CryptoService/Verify": Case(
        crypto.VerifyRequest(
            name="keys/ec", algorithm="ES256", digest=bytes(32), signature=bytes(64)
        ),
        USER,
        OK,
    ),
    "CryptoService/Encrypt": Case(
        crypto.EncryptRequest(name="keys/oct", algorithm="A256GCM"), USER, OK
    ),
    "CryptoService/Decrypt": Case(
        crypto.DecryptRequest(name="keys/oct", algorithm="A256GCM"), USER, INVALID
    ),
    "CryptoService/ReEncrypt": Case(
        crypto.ReEncryptRequest(
            name="keys/oct",
            algorithm="A256GCM",
            target_name="keys/oct",
            target_algorithm="A256GCM",
        ),
        USER,
        INVALID,
    ),
    "CryptoService/WrapKey": Case(
        crypto.WrapKeyRequest(name="keys/oct", algorithm="A256KW", plaintext=bytes(16)),
        USER,
        OK,
    ),
    "CryptoService/UnwrapKey": Case(
        crypto.UnwrapKeyRequest(name="keys/oct", algorithm="A256KW", wrapped=bytes(24)),
        USER,
        INVALID,
    ),
    "CryptoService/GenerateDataKey": Case(
        crypto.GenerateDataKeyRequest(name="keys/oct"), USER, OK
    ),
    # The call is for everybody; what its items need, they are refused by themselves.
    "CryptoService/Batch": Case(
        crypto.BatchRequest(items=[crypto.BatchItem(reference="nothing")]),
        EVERYONE,
        OK,
    ),
    "CryptoService/GetRandomBytes": Case(
        crypto.GetRandomBytesRequest(count=16), USER, OK
    ),
    "AccessService/ListRoleDefinitions": Case(
        access.ListRoleDefinitionsRequest(), ROLES_READERS, OK
    ),
    "AccessService/GetRoleAssignment": Case(
        access.GetRoleAssignmentRequest(name="roleAssignments/uma"), ROLES_READERS, OK
    ),
    "AccessService/ListRoleAssignments": Case(
        access.ListRoleAssignmentsRequest(), ROLES_READERS, OK
    ),
    "AccessService/CreateRoleAssignment": Case(
        access.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(principal="?", scope="/")
        ),
        ADMIN + OFFICER,
        INVALID,
    ),
    "AccessService/DeleteRoleAssignment": Case(
        access.DeleteRoleAssignmentRequest(name="roleAssignments/missing"),
        ADMIN + OFFICER,
        NOT_FOUND,
    ),
    "RegionService/AddRegion": Case(
        regions.AddRegionRequest(
            region=Region(
                name="regions/west", zone="eu", endpoint="e:1", private_endpoint="p:1"
            ),
            fingerprint=Card.of_record(_card("west")).fingerprint,
        ),
        ADMIN,
        OK,
    ),
    "RegionService/RemoveRegion": Case(
        regions.RemoveRegionRequest(name="regions/west"), ADMIN, INVALID
    ),
    "RegionService/ListRegions": Case(
        regions.ListRegionsRequest(), ADMIN + AUDITOR, OK
    ),
    "RegionService/GetReplicationStatus": Case(
        regions.GetReplicationStatusRequest(), ADMIN + AUDITOR, OK
    ),
    "RegionService/WaitForPosition": Case(
        regions.WaitForPositionRequest(position="1.north.1"), EVERYONE, OK
    ),
    "RegionService/GetTopology": Case(regions.GetTopologyRequest(), EVERYONE, OK),
}


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("north")) as one:
        make_key(one, "ec")
        make_key(one, "oct", "oct")
        yield one


def _code(north: Served, who: str, rpc: str, request: Message) -> grpc.StatusCode:
    call = getattr(north, who).channel.unary_unary(f"/hsmvault.v1.{rpc}")
    try:
        call(request.SerializeToString(), timeout=20)
    except grpc.RpcError as error:
        return error.code()
    return OK


def test_the_matrix_names_every_rpc() -> None:
    assert {f"/hsmvault.v1.{rpc}" for rpc in CASES} == RULES.keys()


@pytest.mark.parametrize("who", EVERYONE)
@pytest.mark.parametrize("rpc", CASES)
def test_a_role_may_what_the_matrix_says_and_nothing_else(
    north: Served, rpc: str, who: str
) -> None:
    case = CASES[rpc]

    code = _code(north, who, rpc, case.request)

    assert code == (case.code if who in case.allowed else DENIED)


@pytest.mark.parametrize(
    "name", ["keys/ec", "keys/missing", f"keys/ec/versions/{'0' * 32}"]
)
def test_a_refusal_is_the_same_whether_the_key_exists_or_not(
    north: Served, name: str
) -> None:
    request = crypto.SignRequest(name=name, algorithm="nonsense", digest=b"")

    code, reason, message = refusal(lambda: north.tom.crypto.Sign(request))

    key = "/".join(name.split("/")[:2])
    assert (code, reason) == (DENIED, "ACCESS_DENIED")
    assert message == (
        f"CN=tom lacks keys/sign/action at /{key}; an Administrator can grant it: "
        "hsmvault role assign"
    )


@pytest.mark.parametrize("name", ["roleAssignments/uma", "roleAssignments/missing"])
def test_a_refusal_is_the_same_whether_the_assignment_exists_or_not(
    north: Served, name: str
) -> None:
    told = refusal(
        lambda: north.eve.access.GetRoleAssignment(
            access.GetRoleAssignmentRequest(name=name)
        )
    )

    assert told[0] is DENIED
    assert "at /;" in told[2]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ec",
        "keys/",
        "keys/a/b",
        "keys/../ec",
        "keys/%65c",
        "keys/ec/",
        "keys//ec",
        "keys/e\u0441",
        "keys/ec\n",
        "keys/" + "a" * 128,
        "keys/" + "a" * 60_000,
        "keys/ec/versions/",
        "keys/ec/versions/" + "G" * 32,
    ],
)
def test_a_malformed_name_is_refused_before_anything_else(
    north: Served, name: str
) -> None:
    """Also to callers who may nothing: it says nothing about what exists."""
    request = crypto.SignRequest(name=name, algorithm="ES256", digest=bytes(32))

    code, reason, message = refusal(lambda: north.eve.crypto.Sign(request))

    assert (code, reason) == (INVALID, "MALFORMED_NAME")
    assert len(message) < 500


def test_a_role_at_a_key_is_none_at_keys_whose_names_begin_alike(
    north: Served,
) -> None:
    make_key(north, "pay")
    make_key(north, "payroll")
    grant(north, "kim", CRYPTO_USER, "/keys/Pay")

    assert signed(north.kim, "keys/PAY").name
    assert refusal(lambda: signed(north.kim, "keys/payroll"))[0] is DENIED
    assert refusal(lambda: north.kim.keys.ListKeys(keys.ListKeysRequest()))[0] is DENIED


def test_a_role_at_all_keys_is_none_at_the_vault(north: Served) -> None:
    grant(north, "lea", CRYPTO_USER, "/keys")
    roles = access.ListRoleDefinitionsRequest()

    assert signed(north.lea, "keys/ec").name
    assert north.lea.crypto.GetRandomBytes(crypto.GetRandomBytesRequest(count=8)).data
    assert refusal(lambda: north.lea.access.ListRoleDefinitions(roles))[0] is DENIED


def test_deleted_keys_are_seen_by_who_may_see_them_and_live_ones_too(
    north: Served,
) -> None:
    make_key(north, "old")
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/old"))

    def listed(who: Any) -> set[str]:
        answer = who.keys.ListKeys(keys.ListKeysRequest(show_deleted=True))
        return {key.name for key in answer.keys}

    live = keys.GetKeyRequest(name="keys/ec", show_deleted=True)
    gone = keys.GetKeyRequest(name="keys/old", show_deleted=True)
    assert listed(north.olga) == {"keys/old"}
    assert {"keys/old", "keys/ec"} <= listed(north.tom)
    assert refusal(lambda: listed(north.uma))[0] is DENIED
    assert north.olga.keys.GetKey(gone).state == Key.DELETED
    assert refusal(lambda: north.olga.keys.GetKey(live))[0] is NOT_FOUND
    assert north.tom.keys.GetKey(live).state == Key.ACTIVE
