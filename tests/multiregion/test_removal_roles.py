"""Who may order the removal of a region, by the roles that the region itself holds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hsmvault.model.access import ADMINISTRATOR
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.errors import AccessDenied
from hsmvault.model.log import Kind
from hsmvault.regions.purge import require_administrator
from hsmvault.regions.registry import Registry
from tests.support.nodes import VAULT, FakeNotes, TestVault, now_ms

ACTIONS = ("regions/delete/action",)
REMOVER = "roleDefinitions/remover"


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[TestVault]:
    one = TestVault(tmp_path)
    yield one
    one.close()


def define(vault: TestVault, *, revision: int = 1, removed: bool = False) -> None:
    record = RoleDefinitionRecord(
        REMOVER, revision, "Remover", "", ACTIONS, (), ACTIONS, 1, 1, "CN=x", removed
    )
    vault.north.commit(vault.north.change(Kind.ROLE_DEFINITION, record, revision))


def assign(vault: TestVault, who: str, role: str, *regions: str) -> None:
    record = AssignmentRecord(
        name=f"roleAssignments/{who}",
        revision=1,
        principal=f"CN={who}",
        role_definition=role,
        scope="/",
        create_ms=1,
        author="CN=x",
        regions=regions,
    )
    vault.north.commit(vault.north.change(Kind.ROLE_ASSIGNMENT, record, 1))


def ordered(vault: TestVault, who: str) -> str:
    """The principal whose order it is, if they may."""
    registry = Registry(
        vault.north.store,
        vault.north.workers,
        vault_id=VAULT,
        clock=now_ms,
        audit=FakeNotes(),
    )
    order = vault.order("south", caller=vault.authority.caller(who))
    return require_administrator(order, registry, now_ms=now_ms())


def test_a_custom_role_may_remove_regions_until_it_is_deleted(vault: TestVault) -> None:
    define(vault)
    assign(vault, "rex", REMOVER)

    assert ordered(vault, "rex") == "CN=rex"
    define(vault, revision=2, removed=True)
    with pytest.raises(AccessDenied):
        ordered(vault, "rex")


def test_a_limited_administrator_removes_regions_where_the_primary_is(
    vault: TestVault,
) -> None:
    """Orders are given to the primary, so that is where the right must hold."""
    assign(vault, "nora", ADMINISTRATOR.name, "north")
    assign(vault, "sue", ADMINISTRATOR.name, "south")

    assert ordered(vault, "nora") == "CN=nora"
    with pytest.raises(AccessDenied, match="may not remove regions"):
        ordered(vault, "sue")
