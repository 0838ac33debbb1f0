"""Purging: what goes, what stays, and that it cannot come back."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Connection

from hsmvault.model.errors import AlreadyExists, ChangedMeanwhile, IntegrityFailure
from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Kind
from hsmvault.model.stored import StoredRecord
from hsmvault.store import state
from hsmvault.store.schema import place_of
from hsmvault.store.store import Store
from tests.support.stored import (
    NOW,
    Author,
    at_rest,
    change,
    key,
    sealed,
    stored,
    version,
)


def test_a_purge_leaves_only_the_tombstone(store: Store) -> None:
    author = Author(store)
    made, first = author.create("payroll", "north", "south")
    second = version(made)
    author.commit(change(second, sealed(second), sealed(second, "south")))
    _, other = author.create("payroll-2", "north", "south")

    end = author.purge(made, first, second)

    assert store.state("keys/payroll") is None
    assert store.state(first.resource) is None
    assert store.states(Kind.KEY_VERSION, prefix="keys/payroll/versions/") == []
    assert store.wrapped(first.version, "south") is None
    assert store.wrapped(second.version, "north") is None
    assert store.wrapped(other.version, "south") is not None
    assert [s.record for s in store.states(Kind.TOMBSTONE)] == [end.to_bytes()]
    assert store.verify_chain() == store.head()


def test_a_purged_name_is_free_for_another_key(store: Store) -> None:
    author = Author(store)
    for _ in range(3):
        made, first = author.create("payroll")
        author.purge(made, first)
    author.create("payroll")

    tombstones = store.states(Kind.TOMBSTONE)

    assert len(tombstones) == 3
    found = store.state("keys/payroll")
    assert found is not None
    assert found.revision == 1
    assert store.verify_chain() == store.head()


def test_tombstones_page_by_their_place(store: Store) -> None:
    author = Author(store)
    for _ in range(3):
        author.purge(*author.create("payroll"))

    after, seen = "", []
    while page := store.states(Kind.TOMBSTONE, after=after, limit=1):
        seen.append(page[0].index)
        after = place_of(page[0])

    assert sorted(seen) == [7, 10, 13]


def test_a_purge_must_list_every_version(store: Store) -> None:
    """A version made after the purge was decided on would keep its wrapped keys."""
    author = Author(store)
    made, first = author.create("payroll")
    second = version(made)
    author.commit(change(second, sealed(second)))

    with pytest.raises(ChangedMeanwhile):
        author.purge(made, first)

    assert store.wrapped(first.version, "north") is not None


def test_a_purge_of_another_incarnation_is_refused(store: Store) -> None:
    author = Author(store)
    made, first = author.create("payroll")

    with pytest.raises(IntegrityFailure):
        author.purge(replace(made, incarnation="0" * 32), first)

    assert store.state("keys/payroll") is not None


def test_a_purge_of_what_is_not_there_is_refused(store: Store) -> None:
    with pytest.raises(ChangedMeanwhile):
        Author(store).purge(key("payroll"))


def test_a_wrapped_key_does_not_come_back_after_its_purge(store: Store) -> None:
    """A sealing job, or a batch that arrives twice, may still hold it."""
    author = Author(store)
    made, first = author.create("payroll")
    author.purge(made, first)

    assert store.put_wrapped([at_rest(sealed(first, "south"))]) == 0

    assert store.wrapped(first.version, "south") is None
    assert store.count_wrapped("south") == 0


def test_a_deleted_key_keeps_its_name(store: Store) -> None:
    author = Author(store)
    made, _ = author.create("payroll")
    author.delete(made)

    with pytest.raises(AlreadyExists):
        author.create("PAYROLL")


def test_sealing_finds_what_a_region_still_lacks(store: Store) -> None:
    author = Author(store)
    versions = [author.create(f"k{n}")[1] for n in range(5)]
    author.create("has-both", "north", "south")

    page = store.unsealed("south", limit=2)
    rest = store.unsealed("south", after=page[-1].resource)

    assert [s.resource for s in page + rest] == [v.resource for v in versions]
    assert store.put_wrapped([at_rest(sealed(v, "south")) for v in versions]) == 5
    assert store.unsealed("south") == []
    assert store.count_wrapped("south") == 6


def test_putting_a_wrapped_key_again_replaces_it(store: Store) -> None:
    _, first = Author(store).create("payroll", "north", "south")
    again = replace(sealed(first, "south"), wrapped=b"again"), b"m" * 32

    assert store.put_wrapped([again, again]) == 1

    assert store.wrapped(first.version, "south") == again


def test_a_removed_region_has_no_wrapped_keys(store: Store) -> None:
    author = Author(store)
    _, first = author.create("payroll", "north", "south")

    assert store.drop_wrapped("south") == 1

    assert store.wrapped(first.version, "south") is None
    assert store.wrapped(first.version, "north") is not None
    assert store.drop_wrapped("south") == 0


def test_wrapped_keys_without_a_version_are_not_committed(store: Store) -> None:
    made = key("payroll")
    stray = sealed(version(made))

    with pytest.raises(ChangedMeanwhile):
        Author(store).commit(change(made, stray))

    assert store.state("keys/payroll") is None
    assert stored(made).resource == "keys/payroll"


@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.state("keys/k") and [],
        lambda store: store.states(Kind.KEY) and [],
        lambda store: [
            row.problem
            for _, row in store.due(Kind.KEY, before_ms=NOW * 2, state=KeyState.DELETED)
        ],
        lambda store: [row.problem for row in store.rows()],
    ],
    ids=["state", "states", "due", "rows"],
)
def test_a_key_that_is_purged_while_it_is_read_is_no_forgery(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[Store], list[str] | None],
) -> None:
    """Its name lived before, so tombstones are asked for: by then there is its own."""
    author = Author(store)
    author.purge(*_deleted(author, "k"))
    made, first = _deleted(author, "k")
    asked: list[StoredRecord] = []
    buried = state._buried

    def purging(connection: Connection, found: StoredRecord) -> bool:
        if not asked:
            asked.append(found)
            author.purge(made, first)
        return buried(connection, found)

    monkeypatch.setattr(state, "_buried", purging)

    assert not any(read(store) or [])
    assert asked


def _deleted(author: Author, name: str) -> tuple[KeyRecord, VersionRecord]:
    made, first = author.create(name)
    return author.update(
        made, state=KeyState.DELETED, delete_ms=NOW, purge_ms=NOW
    ), first
