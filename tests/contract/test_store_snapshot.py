"""A snapshot carries a whole vault to a region that cannot follow yet."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest

from hsmvault.model.errors import (
    IntegrityFailure,
    LogCompacted,
    NotFound,
    StaleEpoch,
    TwoHistories,
)
from hsmvault.model.log import ACCESS_KINDS, Epoch, Head, Kind
from hsmvault.model.stored import StoredRecord, WrappedKey
from hsmvault.store.lines import RequestAt, SnapshotItem, line, parse
from hsmvault.store.store import Store
from tests.support.stored import (
    VAULT_ID,
    Author,
    assignment,
    at_rest,
    change,
    entry_after,
    epoch,
    followed,
    key,
    mac_of,
    mark,
    remade,
    sealed,
)


@dataclass
class Taken:
    """A snapshot as its receiver sorts it."""

    head: Head
    states: list[StoredRecord]
    wrapped: list[tuple[WrappedKey, bytes]]
    requests: list[RequestAt]

    def install(self, store: Store) -> None:
        store.install_snapshot(
            self.head,
            states=self.states,
            wrapped=self.wrapped,
            requests=self.requests,
        )


def taken(store: Store) -> Taken:
    return sort(parse(raw) for raw in store.snapshot_lines("south"))


def sort(items: Iterable[SnapshotItem]) -> Taken:
    heads, states, wrapped, requests = [], [], [], []
    for item in items:
        match item:
            case Head():
                heads.append(item)
            case StoredRecord():
                assert item.mac == b"", "a MAC of the sender means nothing elsewhere"
                mac = mac_of(item.statement(VAULT_ID), "south")
                states.append(replace(item, mac=mac))
            case WrappedKey():
                wrapped.append(at_rest(item))
            case RequestAt():
                requests.append(item)
    (head,) = heads
    return Taken(head, states, wrapped, requests)


@pytest.fixture
def full(store: Store) -> Store:
    """A vault with everything in it that a snapshot carries."""
    author = Author(store)
    author.create("kept", "north", "south")
    gone, its = author.create("gone", "north", "south")
    author.purge(gone, its)
    author.commit(change(key("marked")), request=mark())
    author.create("north-only")
    return store


def test_a_snapshot_begins_with_the_head_and_the_fork_table(full: Store) -> None:
    items = list(full.export_snapshot("south"))

    assert items[0] == full.head()
    assert isinstance(items[1], StoredRecord)
    assert items[1].kind is Kind.EPOCH
    wrapped = [item for item in items if isinstance(item, WrappedKey)]
    assert {key.region for key in wrapped} == {"south"}


def test_every_item_survives_being_written_as_a_line(full: Store) -> None:
    items = list(full.export_snapshot("south"))

    lines = list(full.snapshot_lines("south"))

    assert [parse(raw) for raw in lines] == items
    assert all(raw.endswith(b"\n") and raw.count(b"\n") == 1 for raw in lines)
    assert lines == [line(item) for item in items]


@pytest.mark.parametrize(
    "raw",
    (b"", b"{}", b"[]", b"null", b'["head"]', b'["what",1]', b'["head",1,2,3,4]',
     b'["record","key","keys/a",1,"%%%",1]', b'["record","no","keys/a",1,"",1]',
     b'["wrapped","v","r","k","KWP",5]', b"\xff"),
)  # fmt: skip
def test_a_line_that_does_not_read_is_refused(raw: bytes) -> None:
    with pytest.raises(IntegrityFailure):
        parse(raw)


def test_an_installed_snapshot_is_the_same_vault(full: Store, south: Store) -> None:
    taken(full).install(south)

    assert south.head() == south.base() == full.head()
    assert south.epoch() == full.epoch()
    assert south.lineage() == full.lineage()
    for kind in Kind:
        theirs = [(s.record, s.index) for s in full.states(kind)]
        assert [(s.record, s.index) for s in south.states(kind)] == theirs
    for kinds in (list(ACCESS_KINDS), [Kind.REGION], [Kind.VAULT]):
        assert south.last_index(kinds) == full.last_index(kinds)
    assert south.request("CN=alice", mark().method, "r1") == mark()
    assert south.count_wrapped("south") == 1
    assert south.state("keys/gone") is None
    assert south.verify_chain() == full.head()


def test_the_log_goes_on_from_an_installed_snapshot(full: Store, south: Store) -> None:
    taken(full).install(south)
    author = Author(full)
    made, first = author.create("later", "north", "south")
    author.update(made)

    followed(full, south)

    assert south.head() == full.head()
    assert south.verify_chain() == full.head()
    assert south.state("keys/later") is not None
    assert south.wrapped(first.version, "south") == at_rest(sealed(first, "south"))


def test_what_came_by_a_snapshot_can_change_by_the_log(
    full: Store, south: Store
) -> None:
    taken(full).install(south)
    author = Author(full)
    author.commit(change(assignment(1, revision=2)))

    followed(full, south)

    assert south.last_index(list(ACCESS_KINDS)) == full.last_index(list(ACCESS_KINDS))
    found = south.state("roleAssignments/a1")
    assert found is not None
    assert found.revision == 2


def test_the_log_before_a_snapshot_is_not_made_up(full: Store, south: Store) -> None:
    taken(full).install(south)
    head = full.head()
    assert head is not None

    with pytest.raises(LogCompacted):
        south.entries(0)
    with pytest.raises(LogCompacted):
        south.head_at(1)
    assert south.head_at(head.position.index) == head
    assert south.entries(head.position.index) == []


def test_a_batch_that_overlaps_a_snapshot_is_compared_with_it(
    full: Store, south: Store
) -> None:
    taken(full).install(south)
    Author(full).create("later")
    entries = full.entries(0)

    assert south.apply(entries, states=remade(entries, "south")) == full.head()

    other = entry_after(entries[-4], key("other"))
    with pytest.raises(TwoHistories):
        south.apply([other], states=remade([other], "south"))


def test_a_snapshot_replaces_what_is_behind_it(full: Store, south: Store) -> None:
    followed(full, south)
    author = Author(full)
    made, first = author.create("later", "north", "south")
    south.put_wrapped([])
    author.purge(made, first)

    taken(full).install(south)

    assert south.head() == south.base() == full.head()
    assert south.state("keys/later") is None


def test_a_snapshot_that_is_not_ahead_is_refused(full: Store, south: Store) -> None:
    snapshot = taken(full)
    followed(full, south)
    before = south.head(), south.states(Kind.KEY)

    with pytest.raises(TwoHistories):
        snapshot.install(south)

    assert (south.head(), south.states(Kind.KEY)) == before
    assert south.base() is None


def test_a_snapshot_of_another_lineage_is_refused(
    full: Store, south: Store, empty: Store
) -> None:
    """Ours reigns in an epoch that the snapshot has never heard of, or cut earlier."""
    followed(full, south)
    last = full.entries(0)[-1]
    reign = Epoch(2, "south")
    fork = epoch(2, "south", last.position.index, last.chain)
    ours = entry_after(last, fork, reign=reign)
    south.apply([ours], states=remade([ours], "south"))
    Author(full).create("one")
    Author(full).create("two")

    with pytest.raises((TwoHistories, StaleEpoch)):
        taken(full).install(south)

    assert south.epoch() == reign


def test_a_snapshot_with_one_thing_wrong_is_refused_whole(
    full: Store, south: Store
) -> None:
    good = taken(full)
    stranger = replace(good.wrapped[0][0], region="west"), b"m"
    beyond = replace(good.states[-1], index=10_000)
    forks_apart = [s for s in good.states if s.kind is not Kind.EPOCH]

    for wrong in (
        replace(good, wrapped=[stranger]),
        replace(good, wrapped=[(replace(good.wrapped[0][0], version="0"), b"m")]),
        replace(good, states=[*good.states[:-1], beyond]),
        replace(good, states=[replace(s, mac=b"") for s in good.states]),
        replace(good, states=forks_apart),
        replace(good, requests=[RequestAt(10_000, mark("r2"))]),
    ):
        with pytest.raises(IntegrityFailure):
            wrong.install(south)

    assert south.head() is None
    assert south.states(Kind.KEY) == []


def test_there_is_no_snapshot_of_an_empty_store(empty: Store) -> None:
    with pytest.raises(NotFound):
        list(empty.export_snapshot("south"))


def test_a_snapshot_sees_one_moment(full: Store) -> None:
    items = full.export_snapshot("south")
    head = next(items)

    Author(full).create("meanwhile")

    resources = [i.resource for i in items if isinstance(i, StoredRecord)]
    assert "keys/meanwhile" not in resources
    assert head != full.head()


def test_chunks_wait_until_all_are_there(south: Store) -> None:
    south.stage_chunk("s1", 0, b"zero")
    south.stage_chunk("s1", 2, b"two")
    south.stage_chunk("s1", 2, b"two again")

    assert south.staged("s1") == [0, 2]
    assert south.staged_chunk("s1", 2) == b"two again"
    assert south.staged_chunk("s1", 1) is None
    assert south.staged("s2") == []


def test_chunks_of_another_snapshot_make_room(south: Store) -> None:
    south.stage_chunk("s1", 0, b"old")
    south.stage_chunk("s2", 1, b"new")

    assert south.staged("s1") == []
    assert south.staged("s2") == [1]

    south.drop_staged()

    assert south.staged("s2") == []


def test_installing_drops_the_staged_chunks(full: Store, south: Store) -> None:
    south.stage_chunk("s1", 0, b"zero")

    taken(full).install(south)

    assert south.staged("s1") == []


def test_a_store_that_was_taken_from_a_snapshot_knows_how_many_keys_it_has(
    store: Store, south: Store
) -> None:
    author = Author(store)
    author.create("a", "north", "south")
    gone, first = author.create("b", "north", "south")
    taken(store).install(south)
    known = south.key_count()

    author.create("c", "north", "south")
    author.purge(gone, first)
    followed(store, south)

    assert known == 2
    assert south.key_count() == store.key_count() == south.count(Kind.KEY) == 2
