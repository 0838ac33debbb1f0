"""Roles of the vault's own: what they may be called, grant, and do to their holders."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.model.access import (
    ADMINISTRATOR,
    BUILT_IN,
    CRYPTO_USER,
    POLICY_ADMINISTRATOR,
    Permission,
)
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1 import access_service_pb2 as pb
from hsmvault.v1.resources_pb2 import RoleAssignment, RoleDefinition
from tests.support.served import (
    VAULT_ID,
    Caller,
    Served,
    genesis,
    grant,
    make_key,
    refusal,
    served,
    signed,
)

StatusCode = grpc.StatusCode
DENIED = (StatusCode.PERMISSION_DENIED, "ACCESS_DENIED")
INVALID = (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
TAKEN = (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
STATE = (StatusCode.FAILED_PRECONDITION, "WRONG_STATE")
SIGN = "keys/sign/action"


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


@pytest.fixture
def escalating(tmp_path: Path) -> Iterator[Served]:
    """A vault whose setting lets officers grant what they do not hold."""
    settings = VaultRecord(
        VAULT_ID, 1, 1, page_key=bytes(range(32)), role_escalation=True
    )
    with served(tmp_path, records=genesis(settings=settings)) as one:
        yield one


def define(
    who: Caller, title: str, *actions: str, id_: str = "", **fields: Any
) -> RoleDefinition:
    return who.access.CreateRoleDefinition(
        pb.CreateRoleDefinitionRequest(
            role_definition_id=id_,
            role_definition=RoleDefinition(
                title=title, data_actions=actions or [SIGN], **fields
            ),
        )
    )


def redefine(who: Caller, name: str, *mask: str, **fields: Any) -> RoleDefinition:
    return who.access.UpdateRoleDefinition(
        pb.UpdateRoleDefinitionRequest(
            role_definition=RoleDefinition(name=name, **fields),
            update_mask=FieldMask(paths=mask),
        )
    )


def undefine(who: Caller, name: str, etag: str = "") -> str:
    request = pb.DeleteRoleDefinitionRequest(name=name, etag=etag)
    return who.access.DeleteRoleDefinition(request).position


def assign(
    by: Caller, who: str, role: str, scope: str = "/keys", *regions: str
) -> RoleAssignment:
    return by.access.CreateRoleAssignment(
        pb.CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=f"CN={who}",
                role_definition=role,
                scope=scope,
                regions=[f"regions/{region}" for region in regions],
            )
        )
    )


def shouted(name: str) -> str:
    collection, id_ = name.split("/")
    return f"{collection}/{id_.upper()}"


def known(who: Caller) -> list[RoleDefinition]:
    answer = who.access.ListRoleDefinitions(pb.ListRoleDefinitionsRequest())
    return list(answer.role_definitions)


def test_a_custom_role_grants_what_it_names_and_nothing_else(north: Served) -> None:
    make_key(north, "a")
    made = define(north.ada, "Signer", SIGN, description="Signs.")

    assign(north.ada, "kim", made.name)

    assert list(made.permissions) == [SIGN]
    assert not made.built_in
    assert signed(north.kim, "keys/a").signature
    for permission in set(Permission) - {Permission.KEYS_SIGN}:
        held = north.kim.access.TestPermissions(
            pb.TestPermissionsRequest(scope="/keys/a", permissions=[permission])
        ).permissions
        assert list(held) == [p for p in held if p == "topology/read/action"]
    assert refusal(lambda: known(north.kim))[:2] == DENIED


def test_a_prefix_means_all_that_begin_so_and_exceptions_are_taken_out(
    north: Served,
) -> None:
    keeper = define(
        north.ada,
        "Keeper",
        "keys/*",
        "rng/action",
        not_data_actions=["keys/deletedKeys/*", "keys/delete"],
    )

    wanted = {p for p in Permission if p.startswith("keys/")} - {
        p for p in Permission if p.startswith("keys/deletedKeys/")
    }
    assert set(keeper.permissions) == (wanted | {"rng/action"}) - {"keys/delete"}
    assert list(keeper.data_actions) == ["keys/*", "rng/action"]


def test_what_one_role_leaves_out_another_may_grant(north: Served) -> None:
    make_key(north, "a")
    one = define(north.ada, "Most", "keys/*", not_data_actions=[SIGN])
    other = define(north.ada, "Signer", SIGN)

    assign(north.ada, "kim", one.name)
    before = refusal(lambda: signed(north.kim, "keys/a"))
    assign(north.ada, "kim", other.name)

    assert before[:2] == DENIED
    assert signed(north.kim, "keys/a").signature


@pytest.mark.parametrize(
    "actions",
    [
        ["keys"],
        ["keys/sign"],
        ["keys/sign/action/"],
        ["KEYS/SIGN/ACTION"],
        [" keys/sign/action"],
        ["*"],
        ["/*"],
        ["keys*"],
        ["keys/*/action"],
        ["keys/**"],
        ["nothing/*"],
        ["keys/export/action"],
        ["Microsoft.KeyVault/managedHsm/keys/sign/action"],
        ["keys/{principal}/action"],
        [""],
        [SIGN] * 101,
    ],
    ids=lambda actions: actions[0] + (" often" if len(actions) > 1 else ""),
)
def test_actions_that_nobody_can_be_granted_are_refused(
    north: Served, actions: list[str]
) -> None:
    before = north.store.head()

    as_granted = refusal(lambda: define(north.ada, "Mine", *actions))
    as_excepted = refusal(
        lambda: define(north.ada, "Mine", SIGN, not_data_actions=actions)
    )

    assert as_granted[:2] == as_excepted[:2] == INVALID
    assert north.store.head() == before


def test_a_role_that_would_grant_nothing_is_refused(north: Served) -> None:
    told = refusal(
        lambda: define(north.ada, "Mine", "keys/*", not_data_actions=["keys/*"])
    )

    assert told[:2] == INVALID
    assert "leave nothing" in told[2]


def test_a_title_is_taken_once_in_whatever_case_and_spacing(north: Served) -> None:
    define(north.ada, "Key Signer")

    for title in (
        "Key Signer",
        "KEY signer",
        "KeySigner",
        "key-signer",
        "K.e.y Signer",
    ):
        assert refusal(lambda t=title: define(north.ada, t))[:2] == TAKEN  # type: ignore[misc]


def test_a_role_is_deleted_and_its_assignments_are_defunct(north: Served) -> None:
    make_key(north, "a")
    made = define(north.ada, "Signer")
    given = assign(north.ada, "kim", made.name)
    assert signed(north.kim, "keys/a").signature

    position = undefine(north.ada, made.name)

    left = north.ada.access.GetRoleAssignment(
        pb.GetRoleAssignmentRequest(name=given.name)
    )
    assert position
    assert refusal(lambda: signed(north.kim, "keys/a"))[:2] == DENIED
    assert (left.defunct, given.defunct) == (True, False)
    assert made.name not in {r.name for r in known(north.ada)}
    # Neither the id nor what was granted by it comes back.
    gone = made.name.removeprefix("roleDefinitions/")
    assert refusal(lambda: define(north.ada, "Signer", id_=gone))[:2] == TAKEN
    assert refusal(lambda: assign(north.ada, "x", made.name))[:2] == INVALID
    assert refusal(lambda: undefine(north.ada, made.name))[0] is StatusCode.NOT_FOUND
    # The title is free again.
    assert define(north.ada, "Signer").name != made.name


def test_a_defunct_assignment_can_be_revoked(north: Served) -> None:
    made = define(north.ada, "Signer")
    given = assign(north.ada, "kim", made.name)
    undefine(north.ada, made.name)

    north.ada.access.DeleteRoleAssignment(
        pb.DeleteRoleAssignmentRequest(name=given.name)
    )

    listed = north.ada.access.ListRoleAssignments(
        pb.ListRoleAssignmentsRequest(principal="CN=kim")
    )
    assert not listed.role_assignments


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_built_in_roles_are_neither_changed_nor_deleted(
    north: Served, name: str
) -> None:
    for spelled in (name, shouted(name)):
        told = refusal(lambda n=spelled: undefine(north.ada, n))  # type: ignore[misc]
        assert told[:2] == STATE
        told = refusal(lambda n=spelled: redefine(north.ada, n, title="Mine"))  # type: ignore[misc]
        assert told[:2] == STATE
        assert "hsmvault role define" in told[2]


def test_a_role_is_changed_for_everybody_who_holds_it_at_once(tmp_path: Path) -> None:
    keys: dict[str, bytes] = {}
    with ExitStack() as stack:
        one = stack.enter_context(served(tmp_path, keys=keys))
        two = stack.enter_context(
            served(tmp_path, keys=keys, ca=one.ca, partition="p1")
        )
        make_key(one, "a")
        made = define(one.ada, "Signer", "keys/read/action")
        assign(one.ada, "kim", made.name)
        for _ in range(5):
            assert refusal(lambda: signed(two.kim, "keys/a"))[:2] == DENIED
            redefine(one.ada, made.name, data_actions=["keys/read/action", SIGN])

            assert signed(two.kim, "keys/a").signature
            redefine(one.ada, made.name, data_actions=["keys/read/action"])


def test_an_update_changes_what_its_mask_names(north: Served) -> None:
    made = define(north.ada, "Signer", "keys/*", not_data_actions=[SIGN])

    changed = redefine(
        north.ada, made.name, "not_data_actions", "title", title="Key Keeper"
    )

    assert (changed.title, list(changed.data_actions)) == ("Key Keeper", ["keys/*"])
    assert SIGN in changed.permissions
    assert changed.etag != made.etag
    stale = refusal(lambda: redefine(north.ada, made.name, title="X", etag=made.etag))
    assert stale[:2] == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert refusal(lambda: undefine(north.ada, made.name, made.etag))[:2] == stale[:2]
    assert refusal(lambda: redefine(north.ada, made.name, "permissions"))[:2] == INVALID


def test_there_is_room_for_fifty_custom_roles(north: Served) -> None:
    made = [define(north.ada, f"Role {n}") for n in range(50)]

    told = refusal(lambda: define(north.ada, "One more"))
    undefine(north.ada, made[0].name)

    assert told[:2] == (StatusCode.FAILED_PRECONDITION, "LIMIT_REACHED")
    assert define(north.ada, "One more").name
    assert len(known(north.ada)) == 10 + 50


def test_a_repeated_definition_gives_the_same_answer(north: Served) -> None:
    request = pb.CreateRoleDefinitionRequest(
        role_definition=RoleDefinition(title="Signer", data_actions=[SIGN]),
        request_id="1",
    )

    first = north.ada.access.CreateRoleDefinition(request)

    assert north.ada.access.CreateRoleDefinition(request) == first
    assert first == north.ada.access.GetRoleDefinition(
        pb.GetRoleDefinitionRequest(name=shouted(first.name))
    )


# --- nobody grants more than they hold --------------------------------------------


def test_a_definition_cannot_be_widened_beyond_what_its_changer_holds(
    north: Served,
) -> None:
    """By a Policy Administrator, who may define roles and holds no key."""
    grant(north, "pia", POLICY_ADMINISTRATOR)
    made = define(north.pia, "Reader", "keys/read/action")
    redefine(north.pia, made.name, data_actions=["keys/read/action", "rng/action"])
    assign(north.ada, "kim", made.name)
    before = north.store.head()

    told = refusal(lambda: redefine(north.pia, made.name, data_actions=["keys/*"]))

    assert told[:2] == DENIED
    assert "without holding" in told[2]
    assert north.store.head() == before
    # Narrowing takes nothing but what others hold.
    redefine(north.pia, made.name, data_actions=["keys/read/action"])
    assert refusal(lambda: assign(north.pia, "pat", made.name))[:2] == DENIED


def test_nobody_widens_a_role_that_they_hold_themselves(north: Served) -> None:
    """Not even an Administrator: who may assign has to do so, where all can see it."""
    make_key(north, "a")
    editor = define(north.ada, "Editor", "roleDefinitions/*")
    assign(north.ada, "kim", editor.name, "/")
    assign(north.ada, "ada", editor.name, "/keys")

    by_kim = refusal(lambda: redefine(north.kim, editor.name, data_actions=[SIGN]))
    by_ada = refusal(lambda: redefine(north.ada, editor.name, data_actions=[SIGN]))

    assert by_kim[:2] == by_ada[:2] == DENIED
    assert refusal(lambda: signed(north.kim, "keys/a"))[:2] == DENIED
    assert refusal(lambda: signed(north.ada, "keys/a"))[:2] == DENIED


def test_an_administrator_widens_what_others_hold(north: Served) -> None:
    make_key(north, "a")
    made = define(north.ada, "Signer", "keys/read/action")
    assign(north.ada, "kim", made.name)

    redefine(north.ada, made.name, data_actions=[SIGN])

    assert signed(north.kim, "keys/a").signature


@pytest.mark.parametrize("role", ["olga", "pia"])
def test_officers_grant_what_they_do_not_hold_only_where_the_setting_says_so(
    escalating: Served, role: str
) -> None:
    north = escalating
    grant(north, "pia", POLICY_ADMINISTRATOR)
    who = getattr(north, role)

    assert grant(north, "pat", CRYPTO_USER, "/keys", by=role).name
    assert grant(north, "bea", ADMINISTRATOR, by=role).name
    made = define(who, "Signer", "keys/read/action")
    assign(who, "kim", made.name)
    assert SIGN in redefine(who, made.name, data_actions=[SIGN]).permissions
    # What they hold themselves nobody widens, by any setting.
    assign(who, role, made.name, "/keys/x")
    told = refusal(lambda: redefine(who, made.name, data_actions=["keys/*"]))
    assert told[:2] == DENIED


def test_without_the_setting_officers_grant_what_they_hold(north: Served) -> None:
    grant(north, "pia", POLICY_ADMINISTRATOR)

    for who in ("olga", "pia"):
        told = refusal(lambda w=who: grant(north, "pat", CRYPTO_USER, by=w))  # type: ignore[misc]
        assert told[:2] == DENIED
        told = refusal(lambda w=who: grant(north, w, ADMINISTRATOR, by=w))  # type: ignore[misc]
        assert told[:2] == DENIED
    assert grant(north, "pat", POLICY_ADMINISTRATOR, by="pia").name
