"""Memory is never older than the store was when a request began, whoever wrote."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hsmvault.model.access import CRYPTO_USER, Permission
from hsmvault.model.access_records import AssignmentRecord
from hsmvault.model.algorithms import KeySpec
from hsmvault.model.errors import (
    LogCompacted,
    NotServing,
    RegionBehind,
    StoreUnavailable,
    TwoHistories,
)
from hsmvault.model.key_records import KeyRecord, TombstoneRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Epoch, Kind, Position
from hsmvault.model.record import Record
from hsmvault.store.store import Store
from hsmvault.vault import tail
from hsmvault.vault.memory import Memory
from hsmvault.vault.ports import Expect
from hsmvault.vault.ring import Held, Ring
from tests.support.fakes import FakeHsm
from tests.support.served import VAULT_ID, change, genesis, region

P256 = KeySpec.of("EC")
VERSION = "ab" * 16
NORTH = Epoch(1, "north")


class Hooked:
    """A store with something happening at a method's every call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.hooks: dict[str, Callable[..., None]] = {}
        self.called: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*args: Any, **named: Any) -> Any:
            self.called.append((name, args))
            answer = method(*args, **named)
            if name in self.hooks:
                self.hooks[name](*args)
            return answer

        return call


@dataclasses.dataclass
class World:
    store: Store
    hsm: FakeHsm
    home: Path

    def memory(self, store: Any = None, **options: Any) -> Memory:
        return Memory(store or self.store, self.hsm, region="north", **options)

    def write(self, *records: Record) -> Position:
        return self.store.commit(
            [change(record, self.hsm) for record in records],
            expect=Expect(NORTH),
            time_ms=2,
        )

    def key(self, name: str = "a", **fields: Any) -> KeyRecord:
        """The next revision of a key, written."""
        stored = self.store.state(f"keys/{name}")
        if stored is None:
            record = KeyRecord(
                f"keys/{name}", "i", 1, P256, frozenset(P256.operations), 1, 1, VERSION
            )
        else:
            record = KeyRecord.from_bytes(stored.record)
            record = dataclasses.replace(record, revision=record.revision + 1)
        record = dataclasses.replace(record, **fields)
        self.write(record)
        return record

    def version(self, name: str = "a", **fields: Any) -> VersionRecord:
        record = VersionRecord(
            f"keys/{name}", "i", VERSION, 1, P256, b"", ("north",), 1, 1
        )
        record = dataclasses.replace(record, **fields)
        self.write(record)
        return record


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    hsm = FakeHsm(vault_id=VAULT_ID)
    with Store.open("sqlite:///north.db", region="north", home=tmp_path) as store:
        store.found(
            [change(record, hsm) for record in genesis()], time_ms=1, epoch=NORTH
        )
        yield World(store, hsm, tmp_path)


def _revision(memory: Memory, name: str = "keys/a") -> int:
    memory.refresh()
    held = memory.key(name)
    return held.key.record.revision if held else 0


def test_what_was_committed_is_seen_by_the_next_request(world: World) -> None:
    memory = world.memory()
    with Store.open("sqlite:///north.db", region="north", home=world.home) as store:
        other = world.memory(store)
        for revision in range(1, 30):
            world.key()

            assert _revision(memory) == _revision(other) == revision


def test_no_thread_is_ever_served_what_is_older_than_its_request(
    world: World,
) -> None:
    """Readers note what is committed, then refresh, then read: never less than that."""
    memory = world.memory(keys_max=2)
    committed = {"a": 0, "b": 0, "c": 0}
    stale: list[tuple[str, int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            for name, least in list(committed.items()):
                seen = _revision(memory, f"keys/{name}")
                if seen < least:
                    stale.append((name, seen, least))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for turn in range(150):
        name = "abc"[turn % 3]
        committed[name] = world.key(name).revision
    done.set()
    for reader in readers:
        reader.join()

    assert stale == []
    assert len(memory.ring) <= 2


def test_a_thread_that_failed_to_catch_up_does_so_the_next_time(world: World) -> None:
    """The store tells a thread only once that something changed."""
    hooked = Hooked(world.store)
    memory = world.memory(hooked)
    world.key()
    assert _revision(memory) == 1
    world.key()

    def fail(*_: Any) -> None:
        raise StoreUnavailable("the disk is slow")

    hooked.hooks["entries"] = fail
    with pytest.raises(StoreUnavailable):
        memory.refresh()
    hooked.hooks.clear()

    assert _revision(memory) == 2


def test_a_key_that_changed_while_it_was_read_is_not_kept(world: World) -> None:
    hooked = Hooked(world.store)
    memory = world.memory(hooked)
    world.key()
    memory.refresh()

    def overtake(resource: str) -> None:
        # Another thread hears of a newer revision while this one holds the older.
        hooked.hooks.clear()
        world.key()
        other = threading.Thread(target=memory.refresh)
        other.start()
        other.join()
        assert resource == "keys/a"

    hooked.hooks["state"] = overtake
    memory.key("keys/a")

    assert _revision(memory) == 2


def test_starting_reads_no_key(world: World) -> None:
    for number in range(20):
        world.key(f"k{number}")
    hooked = Hooked(world.store)

    world.memory(hooked).refresh()

    read = {args[0] for name, args in hooked.called if name in {"states", "state"}}
    assert read == {
        "vault",
        Kind.EPOCH,
        Kind.REGION,
        Kind.ROLE_DEFINITION,
        Kind.ROLE_ASSIGNMENT,
    }


def test_assignments_and_regions_follow_the_log(world: World) -> None:
    memory = world.memory()
    kim = AssignmentRecord(
        "roleAssignments/kim", 1, "CN=kim", CRYPTO_USER.name, "/", 1, "CN=ada"
    )
    asked = ("CN=kim", Permission.KEYS_SIGN, "/keys/a")
    assert not memory.refresh().access.permits(*asked)

    world.write(kim, region("south"))
    view = memory.refresh()
    assert view.access.permits(*asked)
    assert view.receiving == ("north", "south")
    assert view.access.index == view.regions_index - 1

    world.write(dataclasses.replace(kim, revision=2, removed=True))
    assert not memory.refresh().access.permits(*asked)
    assert view.access.permits(*asked), "a view that was taken does not change"


@pytest.mark.parametrize("step", ["disable", "delete", "disable version", "purge"])
def test_what_may_no_longer_be_used_is_closed_in_the_hsm(
    world: World, step: str
) -> None:
    """Also when the key itself has long left the ring."""
    memory = world.memory(keys_max=1)
    key, version = world.key(), world.version()
    memory.refresh()
    world.hsm.opened[VERSION] = b"secret"

    if step == "disable":
        world.key(enabled=False)
    elif step == "delete":
        world.key(state=KeyState.DELETED)
    elif step == "purge":
        world.write(TombstoneRecord(key.name, "i", 2, (VERSION,), 3))
    else:
        world.write(dataclasses.replace(version, revision=2, enabled=False))
    memory.refresh()

    assert VERSION not in world.hsm.opened


def test_a_log_that_a_snapshot_replaced_is_loaded_again(world: World) -> None:
    hooked = Hooked(world.store)
    memory = world.memory(hooked)
    world.key()
    assert _revision(memory) == 1
    position = world.write(region("south"))
    world.key(enabled=False)

    def compacted(*_: Any) -> None:
        raise LogCompacted("gone")

    hooked.hooks["entries"] = compacted

    assert memory.refresh().position.index == position.index + 1
    assert _revision(memory) == 2


def test_a_long_tail_is_loaded_instead_of_followed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "TAIL_MAX", 3)
    monkeypatch.setattr(tail, "PAGE", 2)
    memory = world.memory()
    assert _revision(memory) == 0
    for _ in range(9):
        world.key()

    assert _revision(memory) == 9


def test_a_log_that_breaks_is_refused(world: World) -> None:
    hooked: Any = Hooked(world.store)
    memory = world.memory(hooked)
    memory.refresh()
    world.key()
    entries = world.store.entries

    class Broken(Hooked):
        def entries(self, after: int, *, limit: int = 1000) -> Any:
            return [
                dataclasses.replace(e, time_ms=e.time_ms + 1)
                for e in entries(after, limit=limit)
            ]

    memory.store = Broken(world.store)

    with pytest.raises(TwoHistories, match="breaks at index"):
        memory.refresh()


def test_a_region_without_a_vault_is_not_serving(tmp_path: Path) -> None:
    hsm = FakeHsm(vault_id=VAULT_ID)
    with Store.open("sqlite:///south.db", region="south", home=tmp_path) as store:
        memory = Memory(store, hsm, region="south")

        for _ in range(2):
            with pytest.raises(NotServing, match="hsmvault vault init"):
                memory.refresh()


def test_waiting_ends_when_nobody_wants_the_answer_or_the_process_ends(
    world: World,
) -> None:
    memory = world.memory()
    far = Position(NORTH, 999)

    with pytest.raises(RegionBehind):
        memory.wait_for(far, seconds=60, wanted=lambda: False)
    memory.close()
    with pytest.raises(NotServing):
        memory.wait_for(far, seconds=60)


def test_a_key_is_not_put_into_the_ring_after_any_drop(world: World) -> None:
    memory = world.memory()
    world.key()
    memory.refresh()
    held = memory.key("keys/a")
    assert held is not None
    ring = Ring(8)
    drops = ring.drops
    ring.drop(["keys/b"])

    assert not ring.put(Held(held.key), drops=drops)
    assert ring.put(Held(held.key), drops=ring.drops)
    assert ring.get("keys/a") is not None
