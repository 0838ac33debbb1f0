"""Names that are nearly others, or are patterns: AZ-01, -02, -03, -12 and -20.

The attackers are callers whose certificates and requests name whatever they like.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.api.admission import Door
from hsmvault.api.rates import SECOND_NS, Rates
from hsmvault.model.access import ADMINISTRATOR, CRYPTO_OFFICER, CRYPTO_USER, Permission
from hsmvault.v1 import access_service_pb2 as access
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import RoleAssignment, RoleDefinition
from hsmvault.vault.view import Access
from tests.support.certified import certified
from tests.support.roles import assign, define, held
from tests.support.served import (
    Caller,
    Served,
    grant,
    make_key,
    refusal,
    served,
    signed,
)

StatusCode = grpc.StatusCode
DENIED = (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
INVALID = StatusCode.INVALID_ARGUMENT
ODD = (
    ".",
    "..",
    "../b",
    "a/../b",
    "%2e%2e",
    "a%2fb",
    "a//b",
    "a/",
    "/a",
    "a\0",
    "a\n",
    " a",
    "a ",
    "*",
    "a*",
    "\u0430",  # a Cyrillic a
    "e\u0301",  # an e with an accent of its own
    "\u00e9",
    "\u202ea",  # from right to left
    "a\u200b",
    "x" * 1_000,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("names")


@pytest.fixture(scope="module")
def north(directory: Path) -> Iterator[Served]:
    # A second passes between any two calls: callers without a role are limited.
    unhurried = Rates(itertools.count(step=SECOND_NS).__next__)
    with served(directory, door=Door(unhurried)) as one:
        make_key(one, "a")
        make_key(one, "b")
        define(one.ada, "Mine", "mine")
        yield one


@pytest.fixture
def named(north: Served, directory: Path) -> Callable[[str], Caller]:
    """Connects as a caller of any common name."""
    return lambda name: north.connect(certified(directory, name))


# --- names ------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ["", *ODD], ids=lambda odd: ascii(odd)[:20])
def test_az_01_an_odd_name_is_refused_before_anything_is_decided(
    north: Served, odd: str
) -> None:
    """By eve, who holds nothing, and ada, who may do all of it: both are told alike."""
    asked: Mapping[str, Any] = {
        "keys.GetKey": keys.GetKeyRequest(name=f"keys/{odd}"),
        "keys.CreateKey": keys.CreateKeyRequest(key_id=odd),
        "keys.ListKeyVersions": keys.ListKeyVersionsRequest(parent=f"keys/{odd}"),
        "crypto.Sign": crypto.SignRequest(name=f"keys/{odd}", algorithm="ES256"),
        "access.GetRoleAssignment": access.GetRoleAssignmentRequest(
            name=f"roleAssignments/{odd}"
        ),
        "access.CreateRoleAssignment": access.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(principal="CN=x", scope=f"/keys/{odd}")
        ),
        "access.ListRoleAssignments": access.ListRoleAssignmentsRequest(
            scope=f"/keys/{odd}"
        ),
        "access.TestPermissions": access.TestPermissionsRequest(scope=f"/keys/{odd}"),
    }

    for method, request in asked.items():
        service, rpc = method.split(".")
        for who in (north.eve, north.ada):
            call = getattr(getattr(who, service), rpc)
            code, _, message = refusal(lambda c=call, r=request: c(r))  # type: ignore[misc]
            assert code is INVALID, method
            assert len(message) < 1000


@pytest.mark.parametrize(
    ("length", "code"),
    [
        (200_000, INVALID),
        (1_000_000, INVALID),
        (3_000_000, StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_az_01_a_name_without_end_is_refused_in_few_words(
    north: Served, length: int, code: grpc.StatusCode
) -> None:
    request = keys.GetKeyRequest(name="keys/" + "x" * length)

    told = refusal(lambda: north.eve.keys.GetKey(request))

    assert told[0] is code
    assert len(told[2]) < 1000


def test_az_02_a_principal_is_compared_to_the_letter_and_never_a_pattern(
    north: Served, named: Callable[[str], Caller]
) -> None:
    """By callers whose certificates name `*`, `+` and the like."""
    for name in ("*", "u*", "uma*", ".*", "+", "{principal}", "%", "uma/../ada"):
        who = named(name)
        assert held(who) == set()
        assign(north.ada, f"CN={name}", CRYPTO_USER.name, "/keys/a")

        assert held(who, "/keys/a")
        assert not held(who, "/keys/b")
    # Nobody else became anybody by it.
    assert held(north.eve, "/keys/a") == set()
    for principal in ("spiffe://*/app", "spiffe://acme/*", "spiffe://acme/{id}"):
        told = refusal(lambda p=principal: assign(north.ada, p, CRYPTO_USER.name))  # type: ignore[misc]
        assert told[0] is INVALID
    for scope in ("/keys/*", "/keys/{principal}", "/*", "/keys/u+"):
        told = refusal(
            lambda s=scope: assign(north.ada, "CN=x", CRYPTO_USER.name, s)  # type: ignore[misc]
        )
        assert told[0] is INVALID
    told = refusal(lambda: define(north.ada, "Own", data_actions=["keys/{principal}"]))
    assert told[0] is INVALID


@pytest.mark.parametrize(
    "title",
    [
        "Managed HSM Administrator",
        "administrator",
        "ADMINISTRATOR",
        "Crypto User",
        "crypto-user",
        "Crypto.User",
        "CryptoUser",
        "managed hsm anything",
        "Managed-HSM-Signer",
        "root",
        "Root",
        "everyone",
        "Crypto User ",
        " Crypto User",
        "Crypto  User",
        "Crypto\tUser",
        "Crypto\u00a0User",
        "\u0421rypto User",  # a Cyrillic C
        "Signer\n",
        "",
        "-",
        "x" * 65,
    ],
)
def test_az_03_a_role_is_not_called_like_one_that_means_more(
    north: Served, title: str
) -> None:
    before = north.store.head()

    made = refusal(lambda: define(north.ada, title))
    renamed = refusal(
        lambda: north.ada.access.UpdateRoleDefinition(
            access.UpdateRoleDefinitionRequest(
                role_definition=RoleDefinition(
                    name="roleDefinitions/mine", title=title
                ),
                update_mask=FieldMask(paths=["title"]),
            )
        )
    )

    assert made[0] is renamed[0] is INVALID
    assert north.store.head() == before


@pytest.mark.parametrize("id_", ["root", "ROOT", "Administrator", "crypto-user"])
def test_az_03_an_id_is_not_spelled_like_a_reserved_one(
    north: Served, id_: str
) -> None:
    assert refusal(lambda: define(north.ada, "Fine", id_))[0] is INVALID


def test_az_03_an_id_is_one_in_whatever_case(north: Served) -> None:
    """Made canonical once, at the edge, before anything is compared with it."""
    shouted = ADMINISTRATOR.name.split("/")[1].upper()
    made = define(north.ada, "Role A", "Role-A")

    assert made.name == "roleDefinitions/role-a"
    for id_ in ("role-a", "ROLE-A", shouted):
        told = refusal(lambda i=id_: define(north.ada, "Other", i))  # type: ignore[misc]
        assert told[0] is StatusCode.ALREADY_EXISTS
    # An officer may not assign Administrator, however it is spelled.
    told = refusal(lambda: assign(north.olga, "CN=olga", f"roleDefinitions/{shouted}"))
    assert told[:2] == DENIED
    assert assign(north.ada, "CN=x", "roleDefinitions/ROLE-A").role_definition == (
        made.name
    )


def test_az_12_no_principal_is_another_by_its_spelling(
    north: Served, named: Callable[[str], Caller]
) -> None:
    """By callers whose names are nearly others': kinds of names do not mix."""
    grant(north, "kim", CRYPTO_USER)
    assign(north.ada, "spiffe://acme/app", CRYPTO_OFFICER.name)
    for name in ("KIM", "Kim", "CN=kim", "spiffe://acme/app", "kim,O=x", "k\u0131m"):
        assert held(named(name)) == set(), name
    for principal in ("kim", "cn=kim", "CN= kim", "CN=kim ", "CN =kim", "SPIFFE://a/b"):
        told = refusal(lambda p=principal: assign(north.ada, p, CRYPTO_USER.name))  # type: ignore[misc]
        assert told[0] is INVALID, principal


def test_az_20_decisions_are_remembered_for_the_very_question(
    north: Served, named: Callable[[str], Caller]
) -> None:
    """By callers whose names, joined to what they ask for, read like another's."""
    grant(north, "kim", CRYPTO_USER, "/keys/a")
    assert signed(north.kim, "keys/a").signature

    for name in (
        "kimkeys/sign/action/keys/a",
        "kim/keys/a",
        "kim|keys/sign/action|/keys/a",
        "kim', 'keys/sign/action",
    ):
        who = named(name)
        assert refusal(lambda w=who: signed(w, "keys/a"))[:2] == DENIED  # type: ignore[misc]


def test_az_20_no_two_questions_share_a_memory() -> None:
    """Every way to cut one text into who, what and where is a question of its own."""
    decided = Access([], index=1, region="north")
    text = "CN=a/keys/b"
    questions = [
        (text[:cut], permission, text[cut:], via)
        for cut in range(len(text) + 1)
        for permission in (Permission.KEYS_SIGN, Permission.KEYS_READ)
        for via in ("", "north", "south")
    ]

    for question in questions:
        assert not decided.permits(*question)

    assert len(decided._decisions) == len(questions)
