"""A grant is decided on one view, and decided again when that was overtaken."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hsmvault.model.access import CRYPTO_AUDITOR, CRYPTO_USER, Permission
from hsmvault.model.access_records import AssignmentRecord, RoleDefinitionRecord
from hsmvault.model.errors import AccessDenied, InvalidRequest, LastAdministrator
from hsmvault.model.grants import Scope
from hsmvault.model.log import Epoch
from hsmvault.model.names import RoleAssignmentName, RoleDefinitionName
from hsmvault.model.record import Record
from hsmvault.model.vault_records import VaultRecord
from hsmvault.store.store import Store
from hsmvault.vault.access import AccessKeeper
from hsmvault.vault.definitions import DefinitionKeeper
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Expect
from hsmvault.vault.view import Caller
from hsmvault.vault.writing import Request, Writer
from tests.support.fakes import FakeHsm
from tests.support.served import VAULT_ID, change, genesis

NORTH = Epoch(1, "north")
SETTINGS = VaultRecord(VAULT_ID, 1, 1, page_key=bytes(32), role_escalation=True)
ACTIONS = ("keys/read/action",)
MINE = RoleDefinitionRecord(
    "roleDefinitions/mine", 1, "Mine", "", ACTIONS, (), ACTIONS, 1, 1, "CN=ada"
)


class Overtaken(Store):
    """A store where something else is committed just before a commit."""

    before: list[Callable[[], None]]

    def commit(self, *args: Any, **named: Any) -> Any:
        if self.before:
            self.before.pop(0)()
        return super().commit(*args, **named)


@dataclass
class World:
    store: Overtaken
    hsm: FakeHsm
    keeper: AccessKeeper
    definitions: DefinitionKeeper

    def meanwhile(self, *records: Record) -> None:
        """Have these committed just before the next commit."""

        def write() -> None:
            self.store.commit(
                [change(record, self.hsm) for record in records],
                expect=Expect(NORTH),
                time_ms=2,
            )

        self.store.before = [write]

    def grant(self, who: str, role: str) -> object:
        caller = Caller(f"CN={who}", Permission.ROLE_ASSIGNMENTS_WRITE, "/")
        return self.keeper.create(
            Request(caller, "Create"),
            id_="",
            principal="CN=kim",
            role_definition=role,
            scope=Scope("/"),
        )

    def assignment(self, who: str) -> AssignmentRecord:
        stored = self.store.state(f"roleAssignments/{who}")
        assert stored is not None
        return AssignmentRecord.from_bytes(stored.record)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    hsm = FakeHsm(vault_id=VAULT_ID)
    ids = iter(f"{n:032x}" for n in range(100))
    with Overtaken.open("sqlite:///n.db", region="north", home=tmp_path) as store:
        store.before = []
        records = genesis(MINE, settings=SETTINGS)
        store.found([change(record, hsm) for record in records], time_ms=1, epoch=NORTH)
        memory = Memory(store, hsm, region="north")
        writer = Writer(store, hsm, memory, lambda: 5)
        yield World(
            store,
            hsm,
            AccessKeeper(store, memory, writer, lambda: 5, lambda: next(ids)),
            DefinitionKeeper(store, writer, lambda: 5, lambda: next(ids)),
        )


def test_a_grant_is_not_made_by_a_setting_that_was_taken_back_meanwhile(
    world: World,
) -> None:
    assert world.grant("olga", CRYPTO_USER.name)
    world.meanwhile(replace(SETTINGS, revision=2, role_escalation=False))

    with pytest.raises(AccessDenied, match="without holding"):
        world.grant("olga", CRYPTO_AUDITOR.name)


def test_a_role_that_was_deleted_meanwhile_is_not_assigned(world: World) -> None:
    world.meanwhile(replace(MINE, revision=2, removed=True))

    with pytest.raises(InvalidRequest, match="unknown"):
        world.grant("ada", MINE.name)


def test_a_role_that_somebody_got_meanwhile_is_not_widened_unseen(
    world: World,
) -> None:
    """Free to change while nobody holds it; not any more when somebody does."""
    settings = replace(SETTINGS, revision=2, role_escalation=False)
    world.store.commit([change(settings, world.hsm)], expect=Expect(NORTH), time_ms=2)
    given = AssignmentRecord(
        "roleAssignments/new", 1, "CN=pat", MINE.name, "/", 1, "CN=ada"
    )
    world.meanwhile(given)
    caller = Caller("CN=olga", Permission.ROLE_DEFINITIONS_WRITE, "/")

    with pytest.raises(AccessDenied, match="without holding"):
        world.definitions.update(
            Request(caller, "Update"),
            RoleDefinitionName("mine"),
            {"data_actions": ("keys/*",)},
            etag="",
        )


def test_the_last_administrator_stays_when_the_other_one_went_meanwhile(
    world: World,
) -> None:
    ada = world.assignment("ada")
    bea = replace(ada, name="roleAssignments/bea", principal="CN=bea")
    world.store.commit([change(bea, world.hsm)], expect=Expect(NORTH), time_ms=2)
    world.meanwhile(replace(bea, revision=2, removed=True))
    caller = Caller("CN=olga", Permission.ROLE_ASSIGNMENTS_DELETE, "/")

    with pytest.raises(LastAdministrator):
        world.keeper.delete(
            Request(caller, "Delete"), RoleAssignmentName("ada"), etag=""
        )
