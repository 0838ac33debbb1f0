"""How many keys and versions there are, without counting them."""

from hsmvault.store.store import Store
from tests.support.stored import Author, change, version


def test_keys_are_counted_with_deleted_ones_and_without_purged_ones(
    store: Store,
) -> None:
    author = Author(store)
    made, first = author.create("a")
    author.create("b")
    gone = author.delete(made)
    before = store.key_count()

    author.purge(gone, first)

    assert (before, store.key_count()) == (2, 1)


def test_versions_are_counted_by_key_and_not_by_names_that_begin_alike(
    store: Store,
) -> None:
    author = Author(store)
    made, _ = author.create("pay")
    author.create("payroll")
    author.commit(change(version(made)))

    counts = [store.version_count(f"keys/{name}") for name in ("pay", "payroll", "p")]

    assert counts == [2, 1, 0]
