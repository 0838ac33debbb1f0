"""What a refusal does not tell, and where scopes end.

What each role is answered by each RPC is in test_access_matrix.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hsmvault.model.access import CRYPTO_USER
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key
from tests.support.served import Served, grant, make_key, refusal, served, signed

StatusCode = grpc.StatusCode
NOT_FOUND = StatusCode.NOT_FOUND
INVALID = StatusCode.INVALID_ARGUMENT
DENIED = StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("north")) as one:
        make_key(one, "ec")
        make_key(one, "oct", "oct")
        yield one


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
        f"hsmvault role assign CN=tom ROLE --scope /{key}"
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
