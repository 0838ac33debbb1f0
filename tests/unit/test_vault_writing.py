"""A write is decided on one view, and decided again when that was overtaken."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hsmvault.model.access import Permission
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import (
    AccessDenied,
    AlreadyExists,
    ChangedMeanwhile,
    NotFound,
)
from hsmvault.model.log import Epoch, Kind
from hsmvault.model.names import KeyName
from hsmvault.model.record import Record
from hsmvault.store.store import Store
from hsmvault.vault.catalogue import Catalogue
from hsmvault.vault.keys import KeyMaker
from hsmvault.vault.life import KeyLife
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Expect
from hsmvault.vault.settings import KeyPatch, KeySettings
from hsmvault.vault.view import Caller
from hsmvault.vault.writing import Request, Writer
from tests.support.fakes import FakeHsm
from tests.support.served import VAULT_ID, Siblings, change, genesis, region

NORTH = Epoch(1, "north")
NAME = KeyName("a")
P256 = KeySpec.of("EC")


class Overtaken(Store):
    """A store where something else is committed just before a commit."""

    before: list[Callable[[], None]]

    def commit(self, *args: Any, **named: Any) -> Any:
        if self.before:
            self.before.pop(0)()
        return super().commit(*args, **named)


class AnyDate:
    """Every date has come."""

    def require_past(self, _date_ms: int, /) -> None:
        return


@dataclass
class World:
    store: Overtaken
    hsm: FakeHsm
    maker: KeyMaker
    life: KeyLife

    def write(self, *records: Record) -> None:
        before, self.store.before = self.store.before, []
        self.store.commit(
            [change(record, self.hsm) for record in records],
            expect=Expect(NORTH),
            time_ms=2,
        )
        self.store.before = before

    def create(self, request_id: str = "") -> Any:
        request = Request(_caller(Permission.KEYS_CREATE), "Create", b"d", request_id)
        return self.maker.create(request, NAME, P256, KeySettings())

    def rotate(self) -> Any:
        request = Request(_caller(Permission.KEYS_ROTATE), "Rotate")
        return self.maker.rotate(request, NAME, etag="")

    def update(self, **patch: Any) -> Any:
        request = Request(_caller(Permission.KEYS_WRITE), "Update")
        return self.life.update(request, NAME, KeyPatch(**patch), etag="")

    def between(self, **patch: Any) -> None:
        """An update in the midst of another write."""
        before, self.store.before = self.store.before, []
        self.update(**patch)
        self.store.before = before

    def end(self) -> None:
        """Delete and purge the key."""
        before, self.store.before = self.store.before, []
        gone = Request(_caller(Permission.KEYS_DELETE), "Delete")
        self.life.delete(gone, NAME, etag="")
        officer = Caller("CN=olga", Permission.DELETED_KEYS_PURGE, "/keys/a")
        self.life.purge(Request(officer, "Purge"), NAME, etag="")
        self.store.before = before


def _caller(permission: Permission) -> Caller:
    return Caller("CN=uma", permission, "/keys/a")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    hsm = FakeHsm(vault_id=VAULT_ID)
    hsm.add_pair("south")
    ids = iter(f"{n:032x}" for n in range(100))
    with Overtaken.open("sqlite:///n.db", region="north", home=tmp_path) as store:
        store.before = []
        store.found(
            [change(record, hsm) for record in genesis()], time_ms=1, epoch=NORTH
        )
        memory = Memory(store, hsm, region="north")
        writer = Writer(store, hsm, memory, lambda: 5)
        maker = KeyMaker(
            store, hsm, Siblings(), memory, writer, lambda: 5, lambda: next(ids)
        )
        life = KeyLife(
            memory,
            Catalogue(store, memory),
            writer,
            clock=lambda: 5,
            dates=AnyDate(),
            lasting=lambda: 5,
        )
        yield World(store, hsm, maker, life)


def test_a_key_made_while_a_region_is_added_is_wrapped_for_it(world: World) -> None:
    world.store.before = [lambda: world.write(region("south"))]

    key = world.create().record

    assert world.store.wrapped(key.current, "south") is not None


def test_a_caller_revoked_meanwhile_makes_nothing(world: World) -> None:
    stored = world.store.state("roleAssignments/uma")
    assert stored is not None
    uma = AssignmentRecord.from_bytes(stored.record)
    world.store.before = [lambda: world.write(replace(uma, revision=2, removed=True))]

    with pytest.raises(AccessDenied):
        world.create()

    assert world.store.states(Kind.KEY) == []


def test_updates_that_overtake_each_other_both_stand(world: World) -> None:
    world.create()
    world.store.before = [lambda: world.between(tags=(("x", "y"),))]

    key = world.update(enabled=False).record

    assert key.tags == (("x", "y"),)
    assert not key.enabled


def test_a_version_is_not_added_to_a_key_that_was_purged_meanwhile(
    world: World,
) -> None:
    """With more regions a rotation writes only the version, not the key."""
    world.write(region("south"))
    world.create()
    world.store.before = [world.end]

    with pytest.raises(NotFound):
        world.rotate()

    assert world.store.states(Kind.KEY_VERSION) == []


def test_two_at_once_make_one_key(world: World) -> None:
    answers: list[object] = []

    def create() -> None:
        try:
            answers.append(world.create().record)
        except AlreadyExists as error:
            answers.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len([a for a in answers if isinstance(a, AlreadyExists)]) == 5
    assert len(world.store.states(Kind.KEY_VERSION)) == 1


def test_one_request_sent_twice_at_once_is_answered_twice_and_done_once(
    world: World,
) -> None:
    first: list[Any] = []
    world.store.before = [lambda: first.append(world.create("r"))]

    second = world.create("r")

    assert first == [second]


def test_a_write_that_is_always_overtaken_gives_up(world: World) -> None:
    world.create()
    world.store.before = [lambda: world.between(enabled=True)] * 20

    with pytest.raises(ChangedMeanwhile):
        world.update(enabled=False)
