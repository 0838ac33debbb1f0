"""What is due by the clock is found without reading the rest, on every database."""

import sqlite3
from contextlib import closing
from pathlib import Path

from hsmvault.model.key_records import KeyRecord, VersionRecord
from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Kind
from hsmvault.model.rotation import DAY_MS, Rotation
from hsmvault.store.store import Store
from tests.support.stored import NOW, Author, followed, north

MONTHLY = Rotation(after_create_ms=28 * DAY_MS, since_ms=NOW)


def _due(store: Store, state: KeyState, before_ms: int) -> list[str]:
    rows = store.due(Kind.KEY, before_ms=before_ms, state=state)
    return [row.place for _, row in rows]


def _deleted(author: Author, name: str, days: int) -> KeyRecord:
    made, _ = author.create(name)
    return author.update(
        made, state=KeyState.DELETED, delete_ms=NOW, purge_ms=NOW + days * DAY_MS
    )


def test_deleted_keys_are_due_when_their_retention_ends_and_not_before(
    store: Store,
) -> None:
    author = Author(store)
    author.create("alive")
    _deleted(author, "late", 90)
    _deleted(author, "early", 7)

    assert _due(store, KeyState.DELETED, NOW + 7 * DAY_MS - 1) == []
    assert _due(store, KeyState.DELETED, NOW + 7 * DAY_MS) == ["keys/early"]
    assert _due(store, KeyState.DELETED, NOW + 90 * DAY_MS) == [
        "keys/early",
        "keys/late",
    ]
    assert _due(store, KeyState.ACTIVE, NOW + 90 * DAY_MS) == []


def test_keys_with_a_policy_are_due_when_it_says(store: Store) -> None:
    author = Author(store)
    made, _ = author.create("monthly")
    author.update(made, rotation=MONTHLY)
    author.create("never")

    assert _due(store, KeyState.ACTIVE, NOW + 28 * DAY_MS - 1) == []
    assert _due(store, KeyState.ACTIVE, NOW + 28 * DAY_MS) == ["keys/monthly"]


def test_what_was_recovered_or_purged_waits_for_nothing(store: Store) -> None:
    author = Author(store)
    gone, back = _deleted(author, "gone", 7), _deleted(author, "back", 7)
    (row,) = store.states(Kind.KEY_VERSION, prefix="keys/gone/versions/")
    first = VersionRecord.from_bytes(row.record)
    author.update(back, state=KeyState.ACTIVE, delete_ms=0, purge_ms=0)
    author.purge(gone, first)

    assert _due(store, KeyState.DELETED, NOW + 90 * DAY_MS) == []
    assert _due(store, KeyState.ACTIVE, NOW + 90 * DAY_MS) == []


def test_what_is_due_is_read_in_pages(store: Store) -> None:
    author = Author(store)
    for number in range(3):
        # Two of them at the same moment: the name decides.
        _deleted(author, f"k{number}", 7 + number // 2)

    pages, after = [], (0, "")
    while rows := store.due(
        Kind.KEY, before_ms=NOW * 2, state="DELETED", after=after, limit=1
    ):
        ((due_ms, row),) = rows
        pages.append(row.place)
        after = due_ms, row.place

    assert pages == ["keys/k0", "keys/k1", "keys/k2"]


def test_a_follower_knows_what_is_due_too(store: Store, south: Store) -> None:
    _deleted(Author(store), "early", 7)

    followed(store, south)

    assert _due(south, KeyState.DELETED, NOW + 7 * DAY_MS) == ["keys/early"]


def test_a_store_of_the_first_schema_learns_what_is_due(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    with north(path) as store:
        _deleted(Author(store), "early", 7)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "DROP INDEX state_due; ALTER TABLE state DROP COLUMN due;"
            "UPDATE alembic_version SET version_num = '0001'"
        )

    with Store.open(f"sqlite:///{path}", region="north") as store:
        assert _due(store, KeyState.DELETED, NOW + 7 * DAY_MS) == ["keys/early"]


def test_keys_are_counted_by_their_state(store: Store) -> None:
    author = Author(store)
    assert store.key_counts() == {"ACTIVE": 0}
    for name in ("a", "b"):
        author.create(name)
    _deleted(author, "c", 7)

    assert store.key_counts() == {"ACTIVE": 2, "DELETED": 1}


def test_what_is_due_is_found_by_its_index(tmp_path: Path) -> None:
    """A million keys are not read every few seconds."""
    with north(tmp_path / "vault.db") as store:
        _deleted(Author(store), "early", 7)
    query = (
        "EXPLAIN QUERY PLAN SELECT place FROM state WHERE kind = 'key' AND due <= 5 "
        "AND life = 'DELETED' ORDER BY due, place"
    )
    with closing(sqlite3.connect(tmp_path / "vault.db")) as connection:
        plan = [row[-1] for row in connection.execute(query)]

    assert len(plan) == 1
    assert "INDEX state_due (kind=? AND due<?)" in plan[0]


def test_a_row_is_filed_again_by_its_own_record_and_by_no_older_one(
    store: Store,
) -> None:
    """Between the look and the repair somebody may have changed the key."""
    author = Author(store)
    deleted = _deleted(author, "a", 7)
    before = store.state("keys/a")
    author.update(deleted, state=KeyState.ACTIVE, delete_ms=0, purge_ms=0)
    after = store.state("keys/a")
    assert before is not None
    assert after is not None

    assert not store.file_again(before)
    assert _due(store, KeyState.DELETED, NOW * 2) == []
    assert store.file_again(after)
    assert all(not row.misfiled for row in store.rows())


def test_rows_are_read_in_pages_and_missed_where_the_log_has_them(
    store: Store, south: Store
) -> None:
    author = Author(store)
    key, first = author.create("gone")
    author.create("here")
    author.purge(key, first)
    followed(store, south)

    pages: list[str] = []
    while rows := south.rows(after=pages[-1] if pages else "", limit=2):
        pages += [row.place for row in rows]

    assert pages == [row.place for row in store.rows(limit=1000)]
    assert pages == sorted(set(pages))
    # What was purged is not missed.
    head = south.head()
    assert head is not None
    assert south.gone(0, head.position.index) == []
