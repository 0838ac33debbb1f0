"""Granting and revoking, and who may."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from hsmvault.model.access import (
    ADMINISTRATOR,
    BUILT_IN,
    CRYPTO_AUDITOR,
    CRYPTO_OFFICER,
    CRYPTO_USER,
    RoleDefinition,
)
from hsmvault.v1 import access_service_pb2 as pb
from hsmvault.v1.key_service_pb2 import DeleteKeyRequest, UpdateKeyRequest
from hsmvault.v1.resources_pb2 import Key, RoleAssignment
from tests.support.served import Served, grant, make_key, refusal, served, signed

StatusCode = grpc.StatusCode
DENIED = (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """Two partitions of one region: one store, two memories."""
    keys: dict[str, bytes] = {}
    with ExitStack() as stack:
        one = stack.enter_context(served(tmp_path, keys=keys))
        two = stack.enter_context(
            served(tmp_path, keys=keys, ca=one.ca, partition="p1")
        )
        yield one, two


def _revoke(north: Served, name: str, *, by: str = "ada") -> None:
    getattr(north, by).access.DeleteRoleAssignment(
        pb.DeleteRoleAssignmentRequest(name=name)
    )


def test_a_grant_and_its_revocation_are_in_force_at_once_in_every_partition(
    pair: tuple[Served, Served],
) -> None:
    one, two = pair
    make_key(one, "a")
    for _ in range(20):
        granted = grant(one, "kim", CRYPTO_USER, "/keys/a")

        assert signed(two.kim, "keys/a").signature
        _revoke(one, granted.name)

        assert refusal(lambda: signed(two.kim, "keys/a"))[:2] == DENIED
        assert refusal(lambda: signed(one.kim, "keys/a"))[:2] == DENIED


def test_a_disabled_or_deleted_key_is_refused_at_once_in_every_partition(
    pair: tuple[Served, Served],
) -> None:
    one, two = pair
    make_key(one, "a")
    for _ in range(20):
        one.uma.keys.UpdateKey(UpdateKeyRequest(key=Key(name="keys/a", enabled=True)))
        version = signed(two.uma, "keys/a").name.rpartition("/")[2]
        assert version in two.hsm.opened

        one.uma.keys.UpdateKey(UpdateKeyRequest(key=Key(name="keys/a", enabled=False)))

        told = refusal(lambda: signed(two.uma, "keys/a"))
        assert told[:2] == (StatusCode.FAILED_PRECONDITION, "KEY_NOT_ENABLED")
        # Its session object is closed there, too.
        assert version not in two.hsm.opened
    one.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/a"))
    assert refusal(lambda: signed(two.uma, "keys/a"))[1] == "KEY_NOT_ENABLED"


@pytest.mark.parametrize("scope", ["/", "/keys", "/keys/Payroll"])
def test_an_administrator_assigns_any_role(north: Served, scope: str) -> None:
    for role in (CRYPTO_USER, CRYPTO_OFFICER, CRYPTO_AUDITOR, ADMINISTRATOR):
        made = grant(north, "kim", role, scope)

        found = north.tom.access.GetRoleAssignment(
            pb.GetRoleAssignmentRequest(name=made.name)
        )
        assert found == made
        assert found.author == "CN=ada"
        assert found.scope == scope.lower()


@pytest.mark.parametrize("role", [ADMINISTRATOR, CRYPTO_USER, CRYPTO_AUDITOR])
def test_an_officer_grants_no_more_than_an_officer_holds(
    north: Served, role: RoleDefinition
) -> None:
    before = north.store.head()

    told = refusal(lambda: grant(north, "olga", role, by="olga"))

    assert told[:2] == DENIED
    assert north.store.head() == before
    assert grant(north, "otto", CRYPTO_OFFICER, "/keys/a", by="olga").name


def test_a_role_at_a_key_assigns_none_beyond_it(north: Served) -> None:
    grant(north, "kim", CRYPTO_OFFICER, "/keys/a")
    grant(north, "max", ADMINISTRATOR, "/keys/a")

    for who in ("kim", "max"):
        for scope in ("/", "/keys", "/keys/ab"):
            told = refusal(
                lambda w=who, s=scope: grant(north, w, CRYPTO_OFFICER, s, by=w)  # type: ignore[misc]
            )
            assert told[:2] == DENIED
    assert grant(north, "pat", CRYPTO_USER, "/keys/A", by="max").scope == "/keys/a"


def test_the_last_administrator_stays(north: Served) -> None:
    grant(north, "kim", ADMINISTRATOR, "/keys")

    told = refusal(lambda: _revoke(north, "roleAssignments/ada"))
    second = grant(north, "bea", ADMINISTRATOR)
    _revoke(north, "roleAssignments/ada", by="bea")

    assert told[:2] == (StatusCode.FAILED_PRECONDITION, "LAST_ADMINISTRATOR")
    assert refusal(lambda: _revoke(north, second.name, by="bea"))[1] == told[1]
    assert refusal(lambda: grant(north, "x", CRYPTO_USER))[:2] == DENIED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"principal": ""}, "INVALID_REQUEST"),
        ({"principal": "uma"}, "INVALID_REQUEST"),
        ({"principal": "CN="}, "INVALID_REQUEST"),
        ({"principal": "CN=a\nb"}, "INVALID_REQUEST"),
        ({"principal": "CN=" + "a" * 600}, "INVALID_REQUEST"),
        ({"principal": "spiffe://"}, "INVALID_REQUEST"),
        ({"principal": "spiffe://a/../b c"}, "INVALID_REQUEST"),
        ({"role_definition": ""}, "MALFORMED_NAME"),
        ({"role_definition": "roleDefinitions/none"}, "INVALID_REQUEST"),
        ({"scope": ""}, "INVALID_REQUEST"),
        ({"scope": "keys/a"}, "INVALID_REQUEST"),
        ({"scope": "/keys/"}, "MALFORMED_NAME"),
        ({"scope": "/keys/a/versions"}, "MALFORMED_NAME"),
        ({"scope": "/regions"}, "INVALID_REQUEST"),
    ],
)
def test_an_assignment_that_means_nothing_is_refused(
    north: Served, fields: dict[str, str], reason: str
) -> None:
    good = {"principal": "CN=x", "role_definition": CRYPTO_USER.name, "scope": "/"}

    told = refusal(
        lambda: north.ada.access.CreateRoleAssignment(
            pb.CreateRoleAssignmentRequest(
                role_assignment=RoleAssignment(**(good | fields))  # type: ignore[arg-type]
            )
        )
    )

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, reason)


def test_an_assignment_is_made_once_and_its_id_is_never_used_again(
    north: Served,
) -> None:
    def make(id_: str, who: str) -> RoleAssignment:
        return north.ada.access.CreateRoleAssignment(
            pb.CreateRoleAssignmentRequest(
                role_assignment_id=id_,
                role_assignment=RoleAssignment(
                    principal=f"CN={who}", role_definition=CRYPTO_USER.name, scope="/"
                ),
            )
        )

    make("mine", "kim")
    same_role = refusal(lambda: make("other", "kim"))
    same_id = refusal(lambda: make("mine", "lea"))
    _revoke(north, "roleAssignments/mine")
    reused = refusal(lambda: make("mine", "lea"))

    for told in (same_role, same_id, reused):
        assert told[:2] == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert make("", "kim").name.startswith("roleAssignments/")


def test_there_is_room_for_fifty_at_the_vault_and_ten_at_a_key(north: Served) -> None:
    for number in range(46):
        grant(north, f"n{number}", CRYPTO_USER, ("/", "/keys")[number % 2])
    for number in range(10):
        grant(north, f"n{number}", CRYPTO_USER, "/keys/a")

    for scope in ("/", "/keys", "/keys/a"):
        told = refusal(lambda s=scope: grant(north, "last", CRYPTO_USER, s))  # type: ignore[misc]
        assert told[:2] == (StatusCode.FAILED_PRECONDITION, "LIMIT_REACHED")
    assert grant(north, "last", CRYPTO_USER, "/keys/b").name


def test_assignments_are_listed_by_principal_by_scope_and_by_page(
    north: Served,
) -> None:
    for scope in ("/keys", "/keys/a"):
        grant(north, "uma", CRYPTO_AUDITOR, scope)

    def listed(**fields: object) -> list[tuple[str, str]]:
        answer = north.tom.access.ListRoleAssignments(
            pb.ListRoleAssignmentsRequest(**fields)  # type: ignore[arg-type]
        )
        return [(a.principal, a.scope) for a in answer.role_assignments]

    first = north.tom.access.ListRoleAssignments(
        pb.ListRoleAssignmentsRequest(page_size=4, below_scope=True)
    )
    rest = north.tom.access.ListRoleAssignments(
        pb.ListRoleAssignmentsRequest(
            below_scope=True, page_token=first.next_page_token
        )
    )
    assert sorted(listed(principal="CN=uma")) == [
        ("CN=uma", "/"),
        ("CN=uma", "/keys"),
        ("CN=uma", "/keys/a"),
    ]
    assert listed(scope="/keys/A") == [("CN=uma", "/keys/a")]
    assert (len(first.role_assignments), len(rest.role_assignments)) == (4, 2)


def test_role_definitions_are_the_ten_built_in(north: Served) -> None:
    answer = north.tom.access.ListRoleDefinitions(
        pb.ListRoleDefinitionsRequest(page_size=6)
    )
    rest = north.tom.access.ListRoleDefinitions(
        pb.ListRoleDefinitionsRequest(page_token=answer.next_page_token)
    )

    assert len(answer.role_definitions) == 6
    roles = [*answer.role_definitions, *rest.role_definitions]
    assert [r.name for r in roles] == sorted(BUILT_IN)
    assert {r.title for r in roles} == {r.title for r in BUILT_IN.values()}
    assert all(r.built_in for r in roles)


def test_a_repeated_grant_gives_the_same_answer(north: Served) -> None:
    request = pb.CreateRoleAssignmentRequest(
        role_assignment=RoleAssignment(
            principal="spiffe://acme/app", role_definition=CRYPTO_USER.name, scope="/"
        ),
        request_id="1",
    )

    first = north.ada.access.CreateRoleAssignment(request)

    assert north.ada.access.CreateRoleAssignment(request) == first
