"""Any order of writes, refusals, purges and deliveries, against a model of dicts."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hsmvault.model.errors import AlreadyExists, ChangedMeanwhile
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.log import Head, Kind
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.store.lines import RequestAt
from hsmvault.store.store import Store
from tests.support.stored import (
    Author,
    at_rest,
    change,
    followed,
    mark,
    north,
    remade,
    sealed,
    version,
)

NAMES = st.sampled_from(["a", "A", "b", "a-1", "ab"])


@dataclass
class Held:
    """What the model knows of a key."""

    record: KeyRecord
    versions: list[VersionRecord] = field(default_factory=list)


class Log(RuleBasedStateMachine):
    """A primary, one region that follows it, and what both should hold."""

    def __init__(self) -> None:
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.north = north(Path(self.home.name) / "north.db")
        url = f"sqlite:///{self.home.name}/south.db"
        self.south = Store.open(url, region="south")
        self.author = Author(self.north)
        self.keys: dict[str, Held] = {}
        self.tombstones = 0
        self.length = 4

    def teardown(self) -> None:
        followed(self.north, self.south)
        assert self.south.head() == self.north.head()
        for kind in Kind:
            ours, theirs = self.north.states(kind), self.south.states(kind)
            assert [(s.record, s.index) for s in ours] == [
                (s.record, s.index) for s in theirs
            ]
        for store in (self.north, self.south):
            assert store.key_count() == store.count(Kind.KEY) == len(self.keys)
        assert self.south.count_wrapped("south") == self.north.count_wrapped("south")
        assert self.south.verify_chain() == self.north.verify_chain()
        self.north.close()
        self.south.close()
        self.home.cleanup()

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        folded = f"keys/{name.lower()}"
        if folded in self.keys:
            with pytest.raises(AlreadyExists):
                self.author.create(name)
            return
        made, first = self.author.create(name, "north", "south")
        self.keys[folded] = Held(made, [first])
        self.length += 2

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), marked=st.booleans())
    def rotate(self, data: st.DataObject, marked: bool) -> None:
        held = self.pick(data)
        fresh = version(held.record)
        self.length += 2
        held.record = replace(
            held.record, revision=held.record.revision + 1, current=fresh.version
        )
        self.author.commit(
            change(fresh, sealed(fresh), sealed(fresh, "south")),
            change(held.record),
            request=mark(f"r{self.length}") if marked else None,
        )
        held.versions.append(fresh)

    @precondition(lambda self: self.keys)
    @rule(data=st.data(), off=st.sampled_from([-1, 0, 2]))
    def update_what_is_not_the_next_revision(
        self, data: st.DataObject, off: int
    ) -> None:
        held = self.pick(data)
        wrong = replace(held.record, revision=held.record.revision + off)
        if wrong.revision == 1:
            with pytest.raises(AlreadyExists):
                self.author.commit(change(wrong))
        else:
            with pytest.raises(ChangedMeanwhile):
                self.author.commit(change(wrong))

    @precondition(lambda self: self.keys)
    @rule(data=st.data())
    def purge(self, data: st.DataObject) -> None:
        held = self.pick(data)
        self.author.purge(held.record, *held.versions)
        del self.keys[held.record.resource]
        self.tombstones += 1
        self.length += 1

    @rule(limit=st.integers(1, 4))
    def follow(self, limit: int) -> None:
        followed(self.north, self.south, limit=limit)

    @rule(back=st.integers(1, 6))
    def deliver_again(self, back: int) -> None:
        head = self.south.head()
        if head is None:
            return
        base = self.south.base()
        start = max(head.position.index - back, base.position.index if base else 0)
        entries = self.north.entries(start, limit=back)
        rows = [
            at_rest(sealed(v, "south")) for h in self.keys.values() for v in h.versions
        ]
        before = self.south.count_wrapped("south")

        again = self.south.apply(entries, states=remade(entries, "south"), wrapped=rows)

        assert again == self.north.head_at(again.position.index)
        if again == head:
            assert self.south.count_wrapped("south") == before

    @rule()
    def catch_up_by_snapshot(self) -> None:
        head = self.south.head()
        if head is not None and head == self.north.head():
            return
        items = list(self.north.export_snapshot("south"))
        assert isinstance(items[0], Head)
        self.south.install_snapshot(
            items[0],
            states=[replace(i, mac=b"m") for i in items if isinstance(i, StoredRecord)],
            wrapped=[at_rest(i) for i in items if isinstance(i, WrappedKey)],
            requests=[i for i in items if isinstance(i, RequestAt)],
        )

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        states = {s.resource: s for s in self.north.states(Kind.KEY)}
        assert states.keys() == self.keys.keys()
        for resource, held in self.keys.items():
            assert states[resource].record == held.record.to_bytes()
            found = self.north.states(Kind.KEY_VERSION, prefix=f"{resource}/versions/")
            assert {s.resource for s in found} == {v.resource for v in held.versions}
            for v in held.versions:
                assert self.north.wrapped(v.version, "north") is not None
        assert self.north.count(Kind.TOMBSTONE) == self.tombstones
        head = self.north.head()
        assert head is not None
        assert head.position.index == self.length

    def pick(self, data: st.DataObject) -> Held:
        return self.keys[data.draw(st.sampled_from(sorted(self.keys)))]


def test_log_and_state_follow_the_model_and_the_follower_follows_them() -> None:
    run_state_machine_as_test(
        Log, settings=settings(max_examples=30, stateful_step_count=25)
    )
