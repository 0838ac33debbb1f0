"""What counting needs of its store: on SQLite, on PostgreSQL, and of the fake."""

from collections.abc import Callable, Iterator

import pytest

from hsmvault.model.invocations import Count, Reckoning
from hsmvault.store.counters import Counters
from hsmvault.store.store import Store
from hsmvault.vault.ports import CounterStore
from tests.support.fakes import FakeCounters
from tests.support.stored import new_id

MAC = bytes(32)


@pytest.fixture
def url(urls: Callable[[], str]) -> Iterator[str]:
    """Of a database in which a region has its store."""
    url = urls()
    with Store.open(url, region="north"):
        yield url


@pytest.fixture(params=["real", "fake"])
def counters(request: pytest.FixtureRequest, url: str) -> Iterator[CounterStore]:
    if request.param == "fake":
        yield FakeCounters()
        return
    opened = Counters.open(url)
    yield opened
    opened.close()


def test_a_count_goes_up_from_where_it_was_seen_and_from_nowhere_else(
    counters: CounterStore,
) -> None:
    version = new_id()
    before = counters.generation()

    assert counters.taken(version) is None
    assert counters.advance(version, 0, Count(256, 1, MAC))
    assert not counters.advance(version, 0, Count(512, 1, MAC))
    assert not counters.advance(version, 255, Count(512, 2, MAC))
    assert counters.advance(version, 256, Count(768, 2, b"\1" * 32))

    assert counters.taken(version) == Count(768, 2, b"\1" * 32)
    assert counters.generation() == before + 2


def test_all_counts_are_surveyed_with_how_they_add_up(counters: CounterStore) -> None:
    versions = {new_id(): Count(n + 1, 1, MAC) for n in range(3)}
    for version, count in versions.items():
        assert counters.advance(version, 0, count)
    seen: dict[str, Count] = {}

    told = counters.survey(seen.update)

    assert seen | versions == seen
    assert told.generation == counters.generation()


def test_what_was_reckoned_is_kept_unless_somebody_counted_meanwhile(
    counters: CounterStore,
) -> None:
    gone, kept, old = (new_id() for _ in range(3))
    for version in (gone, kept):
        counters.advance(version, 0, Count(256, 1, MAC))
    seen = counters.generation()
    reckoning = Reckoning(seen + 10, 7, b"\2" * 32)
    add = [(old, Count(5, 1, MAC))]

    late = counters.settle(reckoning, seen=seen - 1, lost_ms=9, drop=[kept])
    done = counters.settle(reckoning, seen=seen, lost_ms=5, drop=[gone], add=add)
    counters.settle(reckoning, seen=seen + 10, lost_ms=4)

    assert (late, done) == (False, True)
    assert counters.survey(lambda _page: None) == reckoning
    assert counters.taken(gone) is None
    assert counters.taken(kept) == Count(256, 1, MAC)
    assert counters.taken(old) == Count(5, 1, MAC)
    assert counters.lost_ms() >= 5


def test_counts_survive_and_nobody_looks_for_changes_of_them(url: str) -> None:
    version = new_id()
    with Store.open(url, region="north") as store:
        store.changed()
        first = Counters.open(url)
        store.changed()

        first.advance(version, 0, Count(256, 1, MAC))
        first.close()

        assert not store.changed()
    again = Counters.open(url)
    assert again.taken(version) == Count(256, 1, MAC)
    again.close()
