"""What the vault relies on, on SQLite and on PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from hsmvault.model.errors import (
    AccessDenied,
    AlreadyExists,
    ChangedMeanwhile,
    IntegrityFailure,
    NotPrimary,
    StaleEpoch,
)
from hsmvault.model.log import ACCESS_KINDS, GENESIS, Epoch, Kind, chain
from hsmvault.model.vault_records import EpochRecord
from hsmvault.store.store import Store
from hsmvault.vault import ports
from tests.support.stored import (
    FIRST,
    NOW,
    Author,
    assignment,
    change,
    epoch,
    followed,
    genesis,
    key,
    mark,
    new_id,
    north,
    pending,
    region_record,
    sealed,
    stored,
    version,
)


def test_the_store_satisfies_the_vaults_port(store: Store) -> None:
    """Checked by mypy: this is where the two rooms meet, here as in the server."""
    port: ports.Store = store

    assert port.head() == store.head()


def test_an_empty_store_has_no_head_no_epoch_and_no_state(empty: Store) -> None:
    assert empty.head() is None
    assert empty.epoch() is None
    assert empty.base() is None
    assert empty.entries(0) == []
    assert empty.lineage() == []
    assert empty.state("vault") is None
    assert empty.verify_chain() is None
    assert empty.last_index(list(Kind)) == 0


def test_a_log_begins_with_its_first_epoch(empty: Store) -> None:
    position = empty.found(genesis(), time_ms=NOW, epoch=FIRST)

    assert str(position) == "1.north.4"
    assert empty.epoch() == FIRST
    assert [fork.epoch for fork in empty.lineage()] == [FIRST]
    assert empty.verify_chain() == empty.head()


def test_a_log_begins_only_once(store: Store) -> None:
    before = store.head()

    with pytest.raises(AlreadyExists):
        store.found(genesis(), time_ms=NOW, epoch=FIRST)
    with pytest.raises(AlreadyExists):
        store.found(
            [change(epoch(2, "north", 0, GENESIS))],
            time_ms=NOW,
            epoch=Epoch(2, "north"),
        )

    assert store.head() == before


@pytest.mark.parametrize(
    ("first", "reign"),
    (
        (epoch(1, "south", 0, GENESIS), FIRST),
        (epoch(1, "north", 3, GENESIS), FIRST),
        (epoch(1, "north", 0, b"x" * 32), FIRST),
        (epoch(2, "north", 0, GENESIS), FIRST),
        (epoch(2, "north", 0, GENESIS), Epoch(2, "north")),
    ),
)
def test_a_first_epoch_that_does_not_fit_is_refused(
    empty: Store, first: EpochRecord, reign: Epoch
) -> None:
    with pytest.raises(IntegrityFailure):
        empty.found([change(first)], time_ms=NOW, epoch=reign)

    assert empty.head() is None


def test_another_regions_epoch_does_not_begin_here(south: Store) -> None:
    with pytest.raises(NotPrimary):
        south.found(genesis(), time_ms=NOW, epoch=FIRST)


def test_a_write_before_the_first_epoch_is_refused(empty: Store) -> None:
    with pytest.raises(NotPrimary):
        Author(empty).create("payroll")


def test_log_and_state_keep_exactly_the_bytes_that_were_given(store: Store) -> None:
    made, first = Author(store).create("Payroll")

    entries = store.entries(4)

    assert [e.record for e in entries] == [made.to_bytes(), first.to_bytes()]
    assert store.state("keys/payroll") == replace(stored(made), index=5)
    assert store.state(first.resource) == replace(stored(first), index=6)


def test_every_entry_is_chained_to_the_one_before(store: Store) -> None:
    Author(store).create("payroll")

    previous = GENESIS
    for entry in store.entries(0):
        assert entry.chain == chain(previous, replace(entry, chain=b""))
        previous = entry.chain
    head = store.head()
    assert head is not None
    assert head.chain == previous
    assert store.head_at(head.position.index) == head
    assert store.head_at(head.position.index + 1) is None


def test_the_position_of_a_write_is_that_of_its_last_entry(store: Store) -> None:
    made = key("payroll")
    first = version(made)

    position = Author(store).commit(change(made), change(first))

    head = store.head()
    assert head is not None
    assert position == head.position
    assert position.index == 6


def test_entries_come_in_order_and_no_more_than_asked_for(store: Store) -> None:
    assert [e.position.index for e in store.entries(1, limit=2)] == [2, 3]
    assert store.entries(4) == []
    assert store.entries(100) == []


def test_a_name_is_unique_without_regard_to_case(store: Store) -> None:
    author = Author(store)
    author.create("Payroll")
    before = store.head()

    with pytest.raises(AlreadyExists):
        author.create("payroll")

    assert store.head() == before


@pytest.mark.parametrize("revision", (1, 2, 4, 5))
def test_a_record_is_only_replaced_by_its_next_revision(
    store: Store, revision: int
) -> None:
    author = Author(store)
    made, _ = author.create("payroll")
    author.update(made)
    before = store.head()

    with pytest.raises((ChangedMeanwhile, AlreadyExists)):
        author.commit(change(replace(made, revision=revision)))

    assert store.head() == before


def test_a_record_that_is_absent_begins_at_revision_one(store: Store) -> None:
    with pytest.raises(ChangedMeanwhile):
        Author(store).commit(change(key("payroll", revision=2)))


def test_a_write_that_fails_at_its_last_change_leaves_nothing(store: Store) -> None:
    author = Author(store)
    made, first = author.create("payroll")
    before = store.head()
    fresh = key("invoices")

    with pytest.raises(AlreadyExists):
        author.commit(change(fresh), change(made), request=mark())

    assert store.head() == before
    assert store.state("keys/invoices") is None
    assert store.request("CN=alice", mark().method, "r1") is None
    assert store.wrapped(first.version, "north") is not None


def test_a_record_that_says_it_is_another_is_refused(store: Store) -> None:
    made = key("payroll")
    lying = replace(stored(made), resource="keys/invoices")

    with pytest.raises(IntegrityFailure):
        Author(store).commit(ports.Change(lying))

    assert store.state("keys/invoices") is None


def test_a_region_that_does_not_reign_does_not_write(
    store: Store, south: Store
) -> None:
    followed(store, south)

    with pytest.raises(NotPrimary) as refused:
        Author(south).create("payroll")

    assert refused.value.facts["primary"] == "north"
    assert south.head() == store.head()


def test_a_write_decided_in_another_epoch_is_refused(store: Store) -> None:
    with pytest.raises(StaleEpoch):
        Author(store, ports.Expect(Epoch(2, "north"))).create("payroll")


def test_an_epoch_does_not_begin_by_a_write(store: Store) -> None:
    head = store.head()
    assert head is not None

    with pytest.raises(IntegrityFailure):
        Author(store).commit(change(epoch(2, "north", head.position.index, head.chain)))


def test_a_write_decided_on_older_role_assignments_is_refused(store: Store) -> None:
    decided = store.last_index(list(ACCESS_KINDS))
    Author(store).commit(change(assignment(2)))

    with pytest.raises(ChangedMeanwhile):
        Author(store, ports.Expect(FIRST, access_index=decided)).create("payroll")

    now = store.last_index(list(ACCESS_KINDS))
    assert (decided, now) == (4, 5)
    Author(store, ports.Expect(FIRST, access_index=now)).create("payroll")


def test_a_write_decided_on_an_older_set_of_regions_is_refused(store: Store) -> None:
    decided = store.last_index([Kind.REGION])
    Author(store).commit(change(region_record("south")))

    with pytest.raises(ChangedMeanwhile):
        Author(store, ports.Expect(FIRST, regions_index=decided)).create("payroll")

    now = store.last_index([Kind.REGION])
    Author(store, ports.Expect(FIRST, regions_index=now)).create("payroll")


def test_a_guard_that_refuses_leaves_nothing(store: Store) -> None:
    before = store.head()

    def refuse() -> None:
        raise AccessDenied("not any more")

    with pytest.raises(AccessDenied):
        store.commit(
            [change(key("payroll"))],
            expect=ports.Expect(FIRST),
            time_ms=NOW,
            guard=refuse,
        )

    assert store.head() == before
    Author(store).create("payroll")


def test_a_guard_may_read_the_store(store: Store) -> None:
    seen = []

    store.commit(
        [change(key("payroll"))],
        expect=ports.Expect(FIRST),
        time_ms=NOW,
        guard=lambda: seen.append(store.last_index(list(ACCESS_KINDS))),
    )

    assert seen == [4]


def test_a_request_is_remembered_with_its_last_entry(store: Store) -> None:
    made = key("payroll")

    Author(store).commit(change(made), change(version(made)), request=mark())

    assert store.request("CN=alice", mark().method, "r1") == mark()
    assert store.request("CN=bob", mark().method, "r1") is None
    assert [e.request for e in store.entries(4)] == [None, mark()]
    assert store.verify_chain() == store.head()


def test_a_request_that_was_answered_is_not_written_again(store: Store) -> None:
    """Two of the same that race: one writes, the other is told to look again."""
    author = Author(store)
    author.commit(change(key("payroll")), request=mark())

    with pytest.raises(ChangedMeanwhile):
        author.commit(change(key("invoices")), request=mark())

    assert store.state("keys/invoices") is None


def test_wrapped_keys_are_kept_with_their_macs(store: Store) -> None:
    _, first = Author(store).create("payroll", "north", "south")

    assert store.count_wrapped("north") == store.count_wrapped("south") == 1
    row = store.wrapped(first.version, "south")
    assert row is not None
    assert row[0] == sealed(first, "south")
    assert store.wrapped(first.version, "west") is None
    assert store.wrapped_for([first.version, new_id()], "south") == {first.version: row}


def test_states_come_by_kind_in_order_and_page_by_page(store: Store) -> None:
    author = Author(store)
    for name in ("b", "B-1", "a", "c"):
        author.create(name)

    names = [s.resource for s in store.states(Kind.KEY)]

    assert names == ["keys/a", "keys/b", "keys/b-1", "keys/c"]
    page = store.states(Kind.KEY, after="keys/a", limit=2)
    assert [s.resource for s in page] == ["keys/b", "keys/b-1"]
    assert store.count(Kind.KEY) == 4


def test_a_prefix_of_whole_segments_gives_one_keys_versions(store: Store) -> None:
    author = Author(store)
    _, first = author.create("b")
    author.create("b-1")

    versions = store.states(Kind.KEY_VERSION, prefix="keys/b/versions/")

    assert [s.resource for s in versions] == [first.resource]
    beyond = store.states(
        Kind.KEY_VERSION, prefix="keys/b/versions/", after=first.resource
    )
    assert beyond == []


def test_states_can_be_asked_for_by_the_records_own_state(store: Store) -> None:
    author = Author(store)
    gone, first = author.create("gone")
    author.create("kept")
    waiting = pending(version(gone))
    author.commit(change(waiting, sealed(waiting)))
    author.delete(gone)

    def found(kind: Kind, state: str) -> list[str]:
        return [s.resource for s in store.states(kind, state=state)]

    assert found(Kind.KEY, "DELETED") == ["keys/gone"]
    assert found(Kind.KEY, "ACTIVE") == ["keys/kept"]
    assert found(Kind.KEY_VERSION, "PENDING") == [waiting.resource]
    assert first.resource not in found(Kind.KEY_VERSION, "PENDING")


def test_every_change_is_seen_once_by_every_thread(store: Store) -> None:
    with ThreadPoolExecutor(1) as other:
        store.changed()
        other.submit(store.changed).result()

        assert not store.changed()
        Author(store).create("payroll")

        assert store.changed()
        assert not store.changed()
        assert other.submit(store.changed).result()
        assert not other.submit(store.changed).result()


def test_a_threads_first_question_is_answered_yes(store: Store) -> None:
    """It has seen nothing yet, so whatever it remembers of others may be old."""
    with ThreadPoolExecutor(1) as other:
        assert other.submit(store.changed).result()


def test_reads_move_nothing(store: Store) -> None:
    store.changed()

    store.states(Kind.KEY)
    store.entries(0)
    list(store.export_snapshot("north"))

    assert not store.changed()


def test_threads_that_write_together_lose_nothing(store: Store) -> None:
    author = Author(store)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: author.create(f"k{n}"), range(20)))

    assert store.count(Kind.KEY) == 20
    assert store.verify_chain() == store.head()


def test_of_threads_that_want_one_name_one_has_it(store: Store) -> None:
    author = Author(store)

    def create(_: int) -> bool:
        try:
            author.create("payroll")
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(create, range(8))) == 1


def test_a_store_opened_again_is_what_it_was(urls: Callable[[], str]) -> None:
    url = urls()
    with Store.open(url, region="north") as store:
        store.found(genesis(), time_ms=NOW, epoch=FIRST)
        Author(store).create("payroll")
        before = store.head(), store.states(Kind.KEY)

    with Store.open(url, region="north") as store:
        assert (store.head(), store.states(Kind.KEY)) == before
        assert store.size() > 0


def test_the_builder_of_tests_makes_a_sound_log(tmp_path: Path) -> None:
    with north(tmp_path / "vault.db") as store:
        assert store.verify_chain() == store.head()
