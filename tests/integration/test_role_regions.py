"""Assignments that are limited to regions, and what a list of assignments shows."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.model.access import (
    ADMINISTRATOR,
    CRYPTO_AUDITOR,
    CRYPTO_OFFICER,
    CRYPTO_USER,
    RoleDefinition,
)
from hsmvault.model.lifecycle import RegionState
from hsmvault.v1 import access_service_pb2 as pb
from hsmvault.v1.key_service_pb2 import CreateKeyRequest, GetKeyRequest, ListKeysRequest
from hsmvault.v1.resources_pb2 import Key, KeySpec, RoleAssignment
from tests.support.served import (
    FakeManager,
    Served,
    follow,
    genesis,
    grant,
    make_key,
    refusal,
    region,
    served,
    signed,
)

StatusCode = grpc.StatusCode
DENIED = (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
LAST = (StatusCode.FAILED_PRECONDITION, "LAST_ADMINISTRATOR")


@pytest.fixture
def regions(tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """`north`, the primary, and `south`, which follows when told to."""
    keys: dict[str, bytes] = {}
    manager = FakeManager()
    with ExitStack() as stack:
        north = stack.enter_context(
            served(
                tmp_path,
                records=genesis(
                    region("south"),
                    region("east"),
                    region("gone", RegionState.PURGED),
                ),
                keys=keys,
            )
        )
        north.hsm.add_pair("east")
        south = stack.enter_context(
            served(tmp_path, own="south", keys=keys, ca=north.ca, manager=manager)
        )
        follow(north, south)
        manager.primary = north
        manager.on_forward = lambda: follow(north, south)
        yield north, south


def limited(
    one: Served,
    who: str,
    role: RoleDefinition,
    *names: str,
    scope: str = "/",
    by: str = "ada",
) -> RoleAssignment:
    """Assign a role in these regions only."""
    return getattr(one, by).access.CreateRoleAssignment(
        pb.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=f"CN={who}",
                role_definition=role.name,
                scope=scope,
                regions=[f"regions/{name}" for name in names],
            )
        )
    )


def revoke(one: Served, name: str, *, by: str = "ada") -> None:
    request = pb.DeleteRoleAssignmentRequest(name=name)
    getattr(one, by).access.DeleteRoleAssignment(request)


def create(one: Served, who: str, key_id: str) -> Key:
    request = CreateKeyRequest(key_id=key_id, key=Key(spec=KeySpec(type="EC")))
    return getattr(one, who).keys.CreateKey(request)


def test_a_limited_role_is_none_in_another_region(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    make_key(north, "a")
    made = limited(north, "kim", CRYPTO_USER, "south")
    follow(north, south)

    told = refusal(lambda: signed(north.kim, "keys/a"))

    assert list(made.regions) == ["regions/south"]
    assert signed(south.kim, "keys/a").signature
    assert told[:2] == DENIED
    assert "in south only" in told[2]
    assert "asked in north" in told[2]


def test_a_forwarded_write_is_judged_by_the_region_that_the_caller_spoke_to(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    limited(north, "kim", CRYPTO_USER, "south")
    limited(north, "lea", CRYPTO_USER, "north")
    follow(north, south)

    assert create(south, "kim", "by-kim").name == "keys/by-kim"
    assert create(north, "lea", "by-lea").name == "keys/by-lea"
    assert refusal(lambda: create(north, "kim", "x"))[:2] == DENIED
    assert refusal(lambda: create(south, "lea", "x"))[:2] == DENIED


def test_the_primary_does_not_take_a_regions_word_for_where_a_caller_is(
    regions: tuple[Served, Served],
) -> None:
    """By a region that forwards, under its own certificate, for whom it likes."""
    north, _ = regions
    limited(north, "lea", CRYPTO_USER, "north", "east")
    request = CreateKeyRequest(key_id="x", key=Key(spec=KeySpec(type="EC")))

    def forwarded(via: str) -> bool:
        done = north.services.execute(
            "/hsmvault.v1.KeyService/CreateKey",
            request.SerializeToString(),
            principal="CN=lea",
            via_region=via,
        )
        return bool(done.response)

    assert not forwarded("south")
    assert forwarded("east")


def test_several_regions_are_several_and_none_is_all(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    make_key(north, "a")
    limited(north, "kim", CRYPTO_USER, "south", "north", "south")
    limited(north, "lea", CRYPTO_USER)
    follow(north, south)

    for one in regions:
        assert signed(one.kim, "keys/a").signature
        assert signed(one.lea, "keys/a").signature


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("west", "INVALID_REQUEST"),
        ("gone", "INVALID_REQUEST"),
        ("North", "MALFORMED_NAME"),
        ("*", "MALFORMED_NAME"),
        ("", "MALFORMED_NAME"),
    ],
)
def test_a_limit_names_regions_that_are_there(
    regions: tuple[Served, Served], name: str, reason: str
) -> None:
    told = refusal(lambda: limited(regions[0], "kim", CRYPTO_USER, "north", name))

    assert told[:2] == (StatusCode.INVALID_ARGUMENT, reason)


def test_who_is_limited_grants_nothing_beyond_their_regions(
    regions: tuple[Served, Served],
) -> None:
    """Not even an Administrator, to themselves."""
    north, _ = regions
    limited(north, "bea", ADMINISTRATOR, "north")
    limited(north, "otto", CRYPTO_OFFICER, "north", "south")

    for names in ((), ("south",), ("north", "south")):
        told = refusal(
            lambda n=names: limited(north, "bea", CRYPTO_USER, *n, by="bea")  # type: ignore[misc]
        )
        assert told[:2] == DENIED
    assert limited(north, "bea", CRYPTO_USER, "north", by="bea").name
    assert limited(north, "pat", CRYPTO_OFFICER, "south", "north", by="otto").name
    for names in ((), ("east",), ("north", "east")):
        told = refusal(
            lambda n=names: limited(north, "pat", CRYPTO_OFFICER, *n, by="otto")  # type: ignore[misc]
        )
        assert told[:2] == DENIED


def test_what_is_held_in_each_region_by_another_assignment_is_held_in_all_of_them(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    limited(north, "otto", CRYPTO_OFFICER, "north")
    limited(north, "otto", CRYPTO_OFFICER, "south")

    assert limited(north, "pat", CRYPTO_OFFICER, "north", "south", by="otto").name
    told = refusal(lambda: limited(north, "pit", CRYPTO_OFFICER, by="otto"))
    assert told[:2] == DENIED


def test_an_administrator_of_some_regions_is_nobodys_last(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    bea = limited(north, "bea", ADMINISTRATOR, "north", "south", "east")

    told = refusal(lambda: revoke(north, "roleAssignments/ada"))
    by_bea = refusal(lambda: revoke(north, "roleAssignments/ada", by="bea"))

    assert told[:2] == by_bea[:2] == LAST
    # The limited one may go: who may do everything everywhere is still there.
    revoke(north, bea.name, by="bea")
    assert refusal(lambda: limited(north, "x", CRYPTO_USER, by="bea"))[:2] == DENIED


def test_one_role_is_held_once_per_set_of_regions(
    regions: tuple[Served, Served],
) -> None:
    north, _ = regions
    limited(north, "kim", CRYPTO_USER, "north", "south")

    told = refusal(lambda: limited(north, "kim", CRYPTO_USER, "south", "north"))

    assert told[:2] == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert limited(north, "kim", CRYPTO_USER, "south").name
    assert limited(north, "kim", CRYPTO_USER).name


def test_permissions_are_tested_where_they_are_asked_about(
    regions: tuple[Served, Served],
) -> None:
    north, south = regions
    limited(north, "kim", CRYPTO_AUDITOR, "south", scope="/keys")
    follow(north, south)
    asked = ["keys/sign/action", "keys/read/action", "topology/read/action"]

    def held(one: Served, who: str, scope: str) -> list[str]:
        request = pb.TestPermissionsRequest(scope=scope, permissions=asked)
        return list(getattr(one, who).access.TestPermissions(request).permissions)

    assert held(south, "kim", "/keys/A") == asked[1:]
    assert held(south, "kim", "/keys") == asked[1:]
    assert held(south, "kim", "/") == asked[2:]
    assert held(north, "kim", "/keys") == asked[2:]
    assert held(north, "uma", "/") == asked
    assert held(north, "eve", "/keys/a") == asked[2:]


@pytest.mark.parametrize(
    ("scope", "permissions"),
    [
        ("", ["keys/read/action"]),
        ("/keys/*", ["keys/read/action"]),
        ("/", ["keys/*"]),
        ("/", ["nothing"]),
        ("/", ["keys/export/action"]),
        ("/", ["keys/read/action"] * 101),
    ],
)
def test_a_test_of_nothing_that_can_be_held_is_refused(
    regions: tuple[Served, Served], scope: str, permissions: list[str]
) -> None:
    request = pb.TestPermissionsRequest(scope=scope, permissions=permissions)

    told = refusal(lambda: regions[0].eve.access.TestPermissions(request))

    assert told[0] is StatusCode.INVALID_ARGUMENT


# --- lists ------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[Any]:
    """Asks for a list as somebody; tells who is where in it."""
    with served(tmp_path) as north:
        for who, scope in (
            ("kim", "/"),
            ("kim", "/keys"),
            ("kim", "/keys/a"),
            ("kim", "/keys/ab"),
            ("lea", "/keys/a"),
            ("lea", "/keys"),
        ):
            grant(north, who, CRYPTO_AUDITOR, scope)

        def ask(who: str = "tom", **fields: object) -> list[tuple[str, str]]:
            request = pb.ListRoleAssignmentsRequest(**fields)  # type: ignore[arg-type]
            answer = getattr(north, who).access.ListRoleAssignments(request)
            return sorted(
                (a.principal.removeprefix("CN="), a.scope)
                for a in answer.role_assignments
                if a.principal in {"CN=kim", "CN=lea"}
            )

        yield ask


WHOLE = [("kim", "/"), ("kim", "/keys"), ("lea", "/keys")]
AT_A = [("kim", "/keys/a"), ("lea", "/keys/a")]


def test_a_list_at_the_vault_shows_none_of_single_keys(listed: Any) -> None:
    assert listed() == listed(scope="/") == listed(scope="/keys") == WHOLE
    assert listed(scope="/keys/A") == AT_A
    assert listed(scope="/keys/none") == []


def test_a_list_below_a_scope_shows_those_at_single_keys_too(listed: Any) -> None:
    assert listed(below_scope=True) == sorted([*WHOLE, *AT_A, ("kim", "/keys/ab")])
    assert listed(below_scope=True, scope="/keys/a") == AT_A


def test_a_list_of_what_is_in_force_goes_up_and_not_down(listed: Any) -> None:
    assert listed(at_scope=True, scope="/keys/a") == sorted([*WHOLE, *AT_A])
    assert listed(at_scope=True, scope="/keys") == WHOLE
    assert listed(at_scope=True, scope="/") == [("kim", "/")]


def test_a_list_of_a_principal_goes_up_and_down(listed: Any) -> None:
    kims = [("kim", s) for s in ("/", "/keys", "/keys/a", "/keys/ab")]

    assert listed(principal="CN=kim") == kims
    assert listed(principal="CN=kim", scope="/keys/a") == kims[:3]
    assert listed(principal="CN=kim", scope="/keys/a", at_scope=True) == kims[:3]
    assert listed(principal="CN=kim", at_scope=True) == kims[:1]
    assert listed(principal="CN=KIM") == []


def test_az_04_a_list_shows_no_assignment_that_its_reader_could_not_get(
    tmp_path: Path,
) -> None:
    """By a reader at one key, who asks for what its principals hold above it."""
    with served(tmp_path) as north:
        grant(north, "kim", CRYPTO_AUDITOR, "/keys/a")
        request = pb.ListRoleAssignmentsRequest(
            scope="/keys/a", principal="CN=uma", at_scope=True
        )
        theirs = pb.ListRoleAssignmentsRequest(scope="/keys/a", at_scope=True)

        above = north.kim.access.ListRoleAssignments(request).role_assignments
        at = north.kim.access.ListRoleAssignments(theirs).role_assignments

        assert not above
        assert {a.scope for a in at} == {"/keys/a"}
        for scope in ("/", "/keys", "/keys/ab"):
            wider = pb.ListRoleAssignmentsRequest(scope=scope)
            told = refusal(lambda w=wider: north.kim.access.ListRoleAssignments(w))  # type: ignore[misc]
            assert told[:2] == DENIED


def test_az_04_a_list_of_keys_names_only_what_its_reader_can_get(
    tmp_path: Path,
) -> None:
    """Nothing denies, so who may list may get; who may get one key may not list."""
    with served(tmp_path) as north:
        for key_id in ("a", "b"):
            make_key(north, key_id)
        grant(north, "kim", CRYPTO_AUDITOR, "/keys/a")
        grant(north, "lea", CRYPTO_AUDITOR, "/keys")

        told = refusal(lambda: north.kim.keys.ListKeys(ListKeysRequest()))
        names = []
        token = ""
        while True:
            page = north.lea.keys.ListKeys(
                ListKeysRequest(page_size=1, page_token=token)
            )
            names += [key.name for key in page.keys]
            token = page.next_page_token
            if not token:
                break
            if len(names) == 1:
                # What is made meanwhile neither repeats nor hides another.
                make_key(north, "aa")

        assert told[:2] == DENIED
        assert names == sorted(set(names))
        assert {"keys/a", "keys/b"} <= set(names)
        for name in names:
            assert north.lea.keys.GetKey(GetKeyRequest(name=name)).name == name
