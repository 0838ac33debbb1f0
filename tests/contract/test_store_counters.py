"""What counting needs of its store: on SQLite, on PostgreSQL, and of the fake."""

from collections.abc import Callable, Iterator

import pytest

from hsmvault.store.counters import Counters
from hsmvault.store.store import Store
from hsmvault.vault.ports import CounterStore
from tests.support.fakes import FakeCounters

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
    version = f"{id(counters):032x}"
    before = counters.generation()

    assert counters.taken(version) is None
    assert counters.advance(version, 0, 256, MAC)
    assert not counters.advance(version, 0, 512, MAC)
    assert not counters.advance(version, 255, 512, MAC)
    assert counters.advance(version, 256, 768, b"\1" * 32)

    assert counters.taken(version) == (768, b"\1" * 32)
    assert counters.generation() == before + 2


def test_what_was_lost_stays_so_and_the_generation_never_goes_back(
    counters: CounterStore,
) -> None:
    ahead = counters.generation() + 10

    counters.lose(at_ms=5_000_000, generation=ahead)
    counters.lose(at_ms=4_000_000, generation=ahead - 5)

    assert counters.lost_ms() == 5_000_000
    assert counters.generation() == ahead


def test_counts_survive_and_nobody_looks_for_changes_of_them(url: str) -> None:
    version = f"{id(url):032x}"
    with Store.open(url, region="north") as store:
        store.changed()
        first = Counters.open(url)
        store.changed()

        first.advance(version, 0, 256, MAC)
        first.close()

        assert not store.changed()
    again = Counters.open(url)
    assert again.taken(version) == (256, MAC)
    again.close()
