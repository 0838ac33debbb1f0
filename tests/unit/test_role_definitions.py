"""What a role of the vault's own grants, and what no record of one can change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.model.access import ADMINISTRATOR, BUILT_IN, LEFT_OUT, Permission
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.definitions import RESERVED, canonical, granted, require_title
from hsmvault.model.errors import InvalidRequest
from hsmvault.model.grants import RoleAssignment, Scope, allowed
from hsmvault.model.log import Epoch, Position
from hsmvault.vault.checked import Found
from hsmvault.vault.view import Access

permissions = st.sampled_from(Permission)
AT = Position(Epoch(1, "north"), 1)


def _record(name: str, *granted_: str, removed: bool = False) -> RoleDefinitionRecord:
    return RoleDefinitionRecord(
        name, 1, "Mine", "", granted_, (), granted_, 1, 1, "CN=x", removed
    )


def _access(*roles: RoleDefinitionRecord, held: str) -> Access:
    assignment = AssignmentRecord("roleAssignments/1", 1, "CN=a", held, "/", 1, "CN=x")
    return Access(
        [Found(assignment, b"", AT)],
        [Found(role, b"", AT) for role in roles],
        index=1,
        region="north",
    )


@given(st.sets(permissions, min_size=1), st.sets(permissions))
def test_what_is_excepted_is_not_granted_and_nothing_is_added(
    given_: set[Permission], excepted: set[Permission]
) -> None:
    if given_ <= excepted:
        with pytest.raises(InvalidRequest):
            granted(given_, excepted)
    else:
        assert granted(given_, excepted) == given_ - excepted


@given(permissions)
def test_a_prefix_is_of_whole_segments(permission: Permission) -> None:
    head = permission.value.split("/")[0]

    found = granted([f"{head}/*"], [])

    assert permission in found
    assert {p.value.split("/")[0] for p in found} == {head}
    with pytest.raises(InvalidRequest):
        granted([f"{head[:-1]}/*"], [])


@pytest.mark.parametrize("action", sorted(LEFT_OUT))
def test_what_nothing_asks_for_is_refused_with_the_reason(action: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        granted([action], [])

    assert LEFT_OUT[action] in str(told.value)


def test_a_record_named_like_a_built_in_role_changes_nothing() -> None:
    """Should one ever be in the log, whoever wrote it."""
    access = _access(
        _record(ADMINISTRATOR.name, "keys/sign/action"), held=(ADMINISTRATOR.name)
    )

    assert not access.permits("CN=a", Permission.KEYS_SIGN, "/keys/a")
    assert access.permits("CN=a", Permission.REGIONS_WRITE, "/")


def test_what_this_release_does_not_know_is_not_granted() -> None:
    """Written by a later one: the rest of the role is in force."""
    access = _access(
        _record("roleDefinitions/x", "keys/sign/action", "moons/read/action"),
        held="roleDefinitions/x",
    )

    assert access.permits("CN=a", Permission.KEYS_SIGN, "/keys/a")
    assert access.definitions["roleDefinitions/x"].permissions == {Permission.KEYS_SIGN}


def test_reserved_are_the_built_in_titles_with_and_without_their_prefix() -> None:
    for role in BUILT_IN.values():
        assert canonical(role.title) in RESERVED
        assert canonical(role.title.removeprefix("Managed HSM ")) in RESERVED


@given(st.text(max_size=70))
def test_a_title_that_is_taken_is_printable_ascii_of_one_form(title: str) -> None:
    try:
        require_title(title)
    except InvalidRequest:
        return
    assert title.isascii()
    assert title.isprintable()
    assert canonical(title) == canonical(title.swapcase())
    assert canonical(title) not in RESERVED


regions = st.sets(st.sampled_from(["north", "south", "east"]))


@given(regions, regions)
def test_a_limited_assignment_holds_in_its_regions_and_nowhere_else(
    limit: set[str], asked: set[str]
) -> None:
    one = RoleAssignment(
        "roleAssignments/1", "CN=a", ADMINISTRATOR.name, Scope("/"), frozenset(limit)
    )

    held = allowed(
        [one],
        BUILT_IN,
        principal="CN=a",
        permission=Permission.REGIONS_READ,
        resource="/",
        regions=asked,
    )

    assert held == (not limit or (bool(asked) and asked <= limit))
