"""Deny by default; scopes by whole segments; ten roles with separate duties."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.access import (
    ADMINISTRATOR,
    BUILT_IN,
    CRYPTO_AUDITOR,
    CRYPTO_OFFICER,
    CRYPTO_USER,
    EKM_ADMINISTRATOR,
    FOR_EVERYONE,
    LEFT_OUT,
    MATRIX,
    RELEASE_USER,
    Permission,
)
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.grants import RoleAssignment, Scope, allowed, permissions_of
from tests.support.access_matrix import ACTIONS, ROLES
from tests.unit import strategies as some

USES_OF_KEYS = {
    Permission.KEYS_ENCRYPT,
    Permission.KEYS_DECRYPT,
    Permission.KEYS_WRAP,
    Permission.KEYS_UNWRAP,
    Permission.KEYS_SIGN,
    Permission.KEYS_VERIFY,
}
MAKES_OF_KEYS = {
    Permission.KEYS_CREATE,
    Permission.KEYS_WRITE,
    Permission.KEYS_ROTATE,
    Permission.KEYS_DELETE,
}

principals = st.sampled_from(["CN=alice", "CN=bob", "spiffe://example/ns/a"])
scopes = (st.sampled_from(["/", "/keys"]) | some.key_paths).map(Scope.parse)
assignments = st.builds(
    RoleAssignment,
    name=st.just("roleAssignments/1"),
    principal=principals,
    role_definition=st.sampled_from([*BUILT_IN, "roleDefinitions/unknown"]),
    scope=scopes,
)


@pytest.mark.parametrize("permission", Permission, ids=str)
def test_the_built_in_roles_grant_what_the_recorded_service_grants(
    permission: Permission,
) -> None:
    granting = {r.title for r in BUILT_IN.values() if permission in r.permissions}

    columns = ACTIONS[permission.value].split()
    assert granting == {f"Managed HSM {ROLES[column][0]}" for column in columns}


def test_the_matrix_is_the_recorded_one() -> None:
    """All of it: also what nothing here asks for."""
    assert dict(MATRIX) == dict(ACTIONS)


def test_every_row_of_the_matrix_is_a_permission_or_left_out_with_a_reason() -> None:
    asked = {p.value for p in Permission}

    assert asked | LEFT_OUT.keys() == MATRIX.keys()
    assert not asked & LEFT_OUT.keys(), "it exists now: take it out of LEFT_OUT"
    assert all(LEFT_OUT.values())


def test_the_built_in_roles_have_the_published_ids() -> None:
    assert {r.title: r.name for r in BUILT_IN.values()} == {
        f"Managed HSM {title}": f"roleDefinitions/{id_}"
        for title, id_ in ROLES.values()
    }


def test_an_administrator_does_nothing_with_keys() -> None:
    assert not {p for p in ADMINISTRATOR.permissions if p.startswith(("keys/", "rng/"))}


def test_an_officer_neither_makes_nor_uses_keys() -> None:
    assert not CRYPTO_OFFICER.permissions & (USES_OF_KEYS | MAKES_OF_KEYS)


def test_a_user_neither_recovers_nor_purges_nor_grants() -> None:
    """Whoever uses keys cannot end them for good, nor let others in."""
    assert not CRYPTO_USER.permissions & {
        Permission.DELETED_KEYS_RECOVER,
        Permission.DELETED_KEYS_PURGE,
        Permission.ROLE_ASSIGNMENTS_WRITE,
        Permission.ROLE_ASSIGNMENTS_DELETE,
    }


def test_an_auditor_only_reads() -> None:
    assert {p.split("/")[-2] for p in CRYPTO_AUDITOR.permissions} == {"read"}


def test_using_and_purging_keys_takes_two_people() -> None:
    for role in BUILT_IN.values():
        uses = role.permissions & USES_OF_KEYS
        ends = role.permissions & {Permission.DELETED_KEYS_PURGE}
        assert not (uses and ends), role.title


def test_only_an_administrator_or_an_officer_has_all_that_another_role_has() -> None:
    """Policy Administrators define and assign roles, which both of them do, too.

    And who uses keys may do what a service that wraps by them may, and carry them.
    """
    includes = {
        (one.title, other.title)
        for one, other in permutations(BUILT_IN.values(), 2)
        if other.permissions and one.permissions >= other.permissions
    }

    assert {
        tuple(title.removeprefix("Managed HSM ") for title in pair) for pair in includes
    } == {
        ("Administrator", "Policy Administrator"),
        ("Crypto Officer", "Policy Administrator"),
        ("Crypto User", "Crypto Service Encryption User"),
        ("Crypto User", "Backup"),
        ("Crypto User", "Restore"),
    }


def test_roles_for_what_is_not_here_grant_nothing() -> None:
    for role in (RELEASE_USER, EKM_ADMINISTRATOR):
        assert not role.permissions


@given(some.key_ids, some.key_ids)
def test_a_scope_on_one_key_covers_no_other(one: str, other: str) -> None:
    scope = Scope.parse(f"/keys/{one}")

    assert scope.covers(f"/keys/{other.lower()}") == (one.lower() == other.lower())


@given(some.key_ids, st.text("abc-0", min_size=1, max_size=3))
def test_a_scope_is_no_prefix_of_letters(key: str, more: str) -> None:
    """`/keys/a` must not cover `/keys/ab`."""
    assert not Scope.parse(f"/keys/{key}").covers(f"/keys/{key.lower()}{more}")


@given(some.key_ids, some.version_ids)
def test_a_scope_covers_itself_and_all_below(key: str, version: str) -> None:
    path = f"/keys/{key.lower()}"

    for scope in ("/", "/keys", f"/keys/{key}"):
        assert Scope.parse(scope).covers(path)
        assert Scope.parse(scope).covers(f"{path}/versions/{version}")


@given(some.key_ids)
def test_a_scope_on_a_key_does_not_care_for_case(key: str) -> None:
    assert Scope.parse(f"/keys/{key.upper()}") == Scope.parse(f"/keys/{key.lower()}")


def test_the_scope_of_keys_covers_neither_the_root_nor_a_namesake() -> None:
    keys = Scope.parse("/keys")

    assert not keys.covers("/")
    assert not keys.covers("/keystone")
    assert not keys.covers("/regions/north")


@pytest.mark.parametrize(
    "path",
    ["", "keys", "/keys/", "//", "/key", "/keys/a/versions/b", "/keys/*", "/keys/a/.."],
)
def test_what_is_no_scope_is_refused(path: str) -> None:
    with pytest.raises(InvalidRequest):
        Scope.parse(path)


@given(principals, st.sampled_from(Permission), scopes)
def test_without_an_assignment_nothing_is_allowed(
    principal: str, permission: Permission, scope: Scope
) -> None:
    granted = allowed(
        [], BUILT_IN, principal=principal, permission=permission, resource=scope.path
    )

    assert granted == (permission in FOR_EVERYONE)


@given(st.lists(assignments), principals, st.sampled_from(Permission), scopes)
def test_every_grant_can_be_traced_to_one_assignment(
    held: list[RoleAssignment], principal: str, permission: Permission, scope: Scope
) -> None:
    granted = allowed(
        held,
        BUILT_IN,
        principal=principal,
        permission=permission,
        resource=scope.path,
    )

    reasons = [
        a
        for a in held
        if a.principal == principal
        and permission in permissions_of(a, BUILT_IN)
        and a.scope.covers(scope.path)
    ]
    assert granted == (bool(reasons) or permission in FOR_EVERYONE)


@given(st.lists(assignments), assignments, principals, scopes)
def test_another_assignment_never_takes_anything_away(
    held: list[RoleAssignment], more: RoleAssignment, principal: str, scope: Scope
) -> None:
    for permission in Permission:
        before = allowed(
            held,
            BUILT_IN,
            principal=principal,
            permission=permission,
            resource=scope.path,
        )
        after = allowed(
            [*held, more],
            BUILT_IN,
            principal=principal,
            permission=permission,
            resource=scope.path,
        )
        assert after >= before


def test_an_assignment_of_an_unknown_role_grants_nothing() -> None:
    """A deleted role leaves its assignments defunct."""
    defunct = RoleAssignment(
        "roleAssignments/1", "CN=alice", "roleDefinitions/gone", Scope("/")
    )

    assert permissions_of(defunct, BUILT_IN) == frozenset()
