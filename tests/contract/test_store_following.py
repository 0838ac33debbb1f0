"""Following a primary's log: exactly as it is, or not at all."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from hsmvault.model.errors import (
    IntegrityFailure,
    PositionLost,
    StaleEpoch,
    TwoHistories,
)
from hsmvault.model.log import Entry, Epoch, Head, Kind, Position
from hsmvault.store.store import Store
from tests.support.stored import (
    FIRST,
    Author,
    at_rest,
    change,
    entry_after,
    epoch,
    followed,
    key,
    mark,
    remade,
    sealed,
    version,
)

SECOND = Epoch(2, "south")


def contents(store: Store) -> dict[str, object]:
    """All that two regions must have in common."""
    return {
        "entries": store.entries(0),
        "state": [
            (s.resource, s.revision, s.record, s.index)
            for kind in Kind
            for s in store.states(kind)
        ],
        "head": store.head(),
    }


@pytest.mark.parametrize("limit", (1, 3, 1000))
def test_a_follower_has_the_same_log_and_the_same_state(
    store: Store, south: Store, limit: int
) -> None:
    author = Author(store)
    made, first = author.create("payroll", "north", "south")
    gone, its = author.create("gone", "north", "south")
    author.update(made)
    author.purge(gone, its)
    author.commit(change(key("late")), request=mark())

    followed(store, south, limit=limit)

    assert contents(south) == contents(store)
    assert south.verify_chain() == store.head()
    assert south.wrapped(first.version, "south") == at_rest(sealed(first, "south"))
    assert south.wrapped(first.version, "north") is None
    assert south.wrapped(its.version, "south") is None
    assert south.request("CN=alice", mark().method, "r1") == mark()


def test_state_is_kept_under_the_followers_own_mac(store: Store, south: Store) -> None:
    Author(store).create("payroll")

    followed(store, south)

    entry = store.entries(4, limit=1)
    found = south.state("keys/payroll")
    assert found == replace(remade(entry, "south")[0], index=5)
    assert found != store.state("keys/payroll")


def test_a_batch_that_arrives_twice_changes_nothing(store: Store, south: Store) -> None:
    author = Author(store)
    made, first = author.create("payroll", "north", "south")
    author.purge(made, first)
    entries = store.entries(0)
    rows = [at_rest(sealed(first, "south"))]
    head = south.apply(entries, states=remade(entries, "south"), wrapped=rows)

    again = south.apply(entries[2:], states=remade(entries[2:], "south"), wrapped=rows)

    assert again == head == store.head()
    assert contents(south) == contents(store)
    assert south.wrapped(first.version, "south") is None


def test_a_batch_may_begin_with_what_is_held(store: Store, south: Store) -> None:
    followed(store, south)
    Author(store).create("payroll")
    entries = store.entries(2)

    head = south.apply(entries, states=remade(entries, "south"))

    assert head == store.head()


def _forged(entries: list[Entry], at: int, **fields: object) -> list[Entry]:
    return [*entries[:at], replace(entries[at], **fields), *entries[at + 1 :]]  # type: ignore[arg-type]


TOUCHED: dict[str, Callable[[list[Entry]], list[Entry]]] = {
    "an edited record": lambda e: _forged(
        e, 4, record=e[4].record.replace(b"true", b"false")
    ),
    "another time": lambda e: _forged(e, 4, time_ms=1),
    "another author": lambda e: _forged(e, 4, position=Position(Epoch(1, "south"), 5)),
    "a request that nobody made": lambda e: _forged(e, 4, request=mark()),
    "a chain of its own": lambda e: _forged(e, 4, chain=b"x" * 32),
    "an entry left out": lambda e: e[:4] + e[5:],
    "entries swapped": lambda e: [*e[:4], e[5], e[4]],
}


@pytest.mark.parametrize("what", TOUCHED)
def test_a_batch_with_one_thing_wrong_is_refused_whole(
    store: Store, south: Store, what: str
) -> None:
    followed(store, south)
    before = south.head()
    author = Author(store)
    author.commit(change(key("one")))
    author.commit(change(key("two")))
    touched = TOUCHED[what](store.entries(0))[4:]

    with pytest.raises(IntegrityFailure):
        south.apply(touched, states=remade(touched, "south"))

    assert south.head() == before
    assert south.count(Kind.KEY) == 0


def test_a_gap_is_refused(store: Store, south: Store) -> None:
    followed(store, south)
    Author(store).create("payroll")
    late = store.entries(5)

    with pytest.raises(IntegrityFailure, match="6 does not follow 4"):
        south.apply(late, states=remade(late, "south"))


def test_a_batch_must_end_in_the_head_that_was_signed(
    store: Store, south: Store
) -> None:
    entries = store.entries(0)
    states = remade(entries, "south")
    head = store.head()
    assert head is not None

    for wrong in (replace(head, chain=b"x" * 32), store.head_at(3)):
        with pytest.raises(TwoHistories):
            south.apply(entries, states=states, expected_head=wrong)
    assert south.head() is None

    assert south.apply(entries, states=states, expected_head=head) == head


def test_two_histories_are_noticed_and_nothing_is_overwritten(
    store: Store, south: Store
) -> None:
    followed(store, south)
    Author(store).create("payroll")
    followed(store, south)
    before = contents(south)
    other = entry_after(store.entries(3, limit=1)[0], key("other"))

    with pytest.raises(TwoHistories):
        south.apply([other], states=remade([other], "south"))

    assert contents(south) == before


def test_states_must_be_those_of_the_entries(store: Store, south: Store) -> None:
    entries = store.entries(0)
    states = remade(entries, "south")

    for wrong in (
        states[:-1],
        [*states[:-1], states[0]],
        [replace(states[0], mac=b""), *states[1:]],
        [replace(states[0], record=states[0].record + b" "), *states[1:]],
        [replace(states[0], revision=2), *states[1:]],
    ):
        with pytest.raises(IntegrityFailure):
            south.apply(entries, states=wrong)

    assert south.head() is None


def test_an_entry_that_skips_a_revision_is_refused(store: Store, south: Store) -> None:
    followed(store, south)
    last = store.entries(3)[-1]
    ahead = entry_after(last, key("payroll", revision=3))

    with pytest.raises(IntegrityFailure, match="revision"):
        south.apply([ahead], states=remade([ahead], "south"))


def _second_epoch(store: Store) -> list[Entry]:
    """What `south` would write if it were promoted where `store` ends."""
    last = store.entries(0)[-1]
    first = entry_after(
        last, epoch(2, "south", last.position.index, last.chain), reign=SECOND
    )
    return [first, entry_after(first, key("after"))]


def test_a_new_epoch_goes_on_where_the_log_ends(store: Store) -> None:
    reign = _second_epoch(store)

    head = store.apply(reign, states=remade(reign, "north"))

    assert store.epoch() == SECOND
    assert [fork.epoch for fork in store.lineage()] == [FIRST, SECOND]
    assert str(head.position) == "2.south.6"
    assert store.verify_chain() == head


def test_an_epoch_that_forks_elsewhere_is_refused(store: Store) -> None:
    last = store.entries(0)[-1]
    at = last.position.index

    for fork in (
        epoch(2, "south", at - 1, last.chain),
        epoch(2, "south", at, b"x" * 32),
        epoch(3, "south", at, last.chain),
        epoch(2, "west", at, last.chain),
    ):
        entry = entry_after(last, fork, reign=SECOND)
        with pytest.raises(TwoHistories):
            store.apply([entry], states=remade([entry], "north"))

    assert store.epoch() == FIRST


def test_a_new_reign_without_its_first_entry_is_refused(store: Store) -> None:
    entry = entry_after(store.entries(0)[-1], key("payroll"), reign=SECOND)

    with pytest.raises(TwoHistories):
        store.apply([entry], states=remade([entry], "north"))


def test_an_older_reign_is_refused(store: Store) -> None:
    reign = _second_epoch(store)
    store.apply(reign, states=remade(reign, "north"))
    late = entry_after(reign[-1], key("late"), reign=FIRST)

    with pytest.raises(StaleEpoch):
        store.apply([late], states=remade([late], "north"))


def test_a_position_is_reached_when_the_log_has_come_to_it(
    store: Store, empty: Store
) -> None:
    assert store.reached(Position(FIRST, 4))
    assert store.reached(Position(FIRST, 1))
    assert not store.reached(Position(FIRST, 5))
    assert not store.reached(Position(SECOND, 1))


def test_an_empty_log_has_reached_nothing(empty: Store) -> None:
    assert not empty.reached(Position(FIRST, 1))


def test_a_position_beyond_the_cut_of_its_epoch_is_lost(store: Store) -> None:
    reign = _second_epoch(store)
    store.apply(reign, states=remade(reign, "north"))

    assert store.reached(Position(FIRST, 4))
    assert store.reached(Position(SECOND, 5))
    assert not store.reached(Position(SECOND, 7))
    for lost in (
        Position(FIRST, 5),
        Position(SECOND, 4),
        Position(Epoch(2, "west"), 5),
        Position(Epoch(1, "south"), 1),
        Position(FIRST, 0),
    ):
        with pytest.raises(PositionLost):
            store.reached(lost)


def test_verifying_goes_on_from_where_it_stopped(store: Store) -> None:
    Author(store).create("payroll")
    at: Head | None = None
    steps = 0

    while at != store.head():
        at = store.verify_chain(at, limit=2)
        steps += 1

    assert steps == 3
    assert store.verify_chain(at) == at


def test_verifying_from_a_head_that_is_not_ours_is_refused(store: Store) -> None:
    with pytest.raises(TwoHistories):
        store.verify_chain(Head(Position(FIRST, 2), b"x" * 32))


def test_a_wrapped_key_for_an_unknown_version_is_left_out(
    store: Store, south: Store
) -> None:
    entries = store.entries(0)
    stray = sealed(version(key("stray")), "south")

    south.apply(entries, states=remade(entries, "south"), wrapped=[at_rest(stray)])

    assert south.count_wrapped("south") == 0
