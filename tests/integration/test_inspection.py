"""The store is looked at again and again, so that nothing hides where nobody asks.

The attacker writes to the store's file, and has no session in the HSM: no record of
theirs bears a good MAC, but no MAC is over the columns that queries go by, and what no
query finds nobody checks.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from hsmvault.model.lifecycle import KeyState
from hsmvault.model.log import Kind
from hsmvault.model.rotation import DAY_MS
from hsmvault.regions import inspection as inspecting
from hsmvault.regions.alarms import Alarms
from hsmvault.regions.inspection import PATIENCE, REST_SECONDS, Inspection
from hsmvault.regions.registry import Registry
from hsmvault.v1.key_service_pb2 import DeleteKeyRequest, RotateKeyRequest
from tests.support.nodes import FakeNotes, FakeWorkers, now_ms
from tests.support.served import VAULT_ID, Served, make_key, served

STEPS = 60
"""More than a pass over these small stores takes."""


@dataclass
class Region:
    """One region's store, its inspection, and an attacker at the file."""

    one: Served
    path: Path

    def __post_init__(self) -> None:
        self.alarms, self.notes = Alarms(), FakeNotes()
        self.workers = FakeWorkers("north", [self.one.hsm])
        self.seconds = 0.0
        registry = Registry(
            self.one.store,
            self.workers,
            vault_id=VAULT_ID,
            clock=now_ms,
            audit=self.notes,
        )
        self.inspection = Inspection(
            self.one.store, registry, boot=lambda: self.seconds, alarms=self.alarms
        )

    def edit(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute(statement).rowcount == 1
            connection.commit()

    def inspect(self, steps: int = STEPS) -> tuple[str, ...]:
        """Have a whole pass made, and more than that; returns the alarms."""
        self.seconds += REST_SECONDS
        for _ in range(steps):
            self.inspection.step()
        return self.alarms.texts()

    def due(self) -> list[str]:
        far = now_ms() + 1000 * DAY_MS
        rows = self.one.store.due(Kind.KEY, before_ms=far, state=KeyState.DELETED)
        return [row.place for _, row in rows]


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Region]:
    with served(tmp_path) as one:
        for key in ("a", "b"):
            make_key(one, key)
        one.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/a"))
        yield Region(one, tmp_path / "north.db")


def test_a_store_that_nobody_edited_is_not_touched(north: Region) -> None:
    before = north.one.store.rows()

    assert north.inspect() == ()
    assert north.one.store.rows() == before
    assert north.notes.events == []


@pytest.mark.parametrize(
    "edit", ["due = NULL", "due = 9000000000000000000", "due = 'never'", "life = NULL"]
)
def test_a_key_that_was_hidden_from_its_purge_is_found_and_filed_again(
    north: Region, edit: str
) -> None:
    north.edit(f"UPDATE state SET {edit} WHERE place = 'keys/a'")  # noqa: S608
    hidden = north.due()

    alarms = north.inspect()

    assert hidden == []
    assert north.due() == ["keys/a"]
    column = edit.partition(" ")[0]
    (told,) = alarms
    assert f"keys/a: it was filed wrongly ({column})" in told
    assert north.notes.events == [
        f"state.filed_again /keys/a {{'columns': ['{column}']}}"
    ]
    # The alarm stays until a whole pass has found nothing.
    assert north.inspect() == ()


def test_versions_that_were_filed_under_each_others_ids_are_filed_again(
    north: Region,
) -> None:
    rows = north.one.store.rows()
    for name in ("a", "b"):
        north.edit(
            f"UPDATE state SET version = '{name}' WHERE parent = 'keys/{name}'"  # noqa: S608
        )
    north.edit(
        "UPDATE state SET version = (SELECT substr(place, -32) FROM state "
        "WHERE parent = 'keys/a') WHERE parent = 'keys/b'"
    )

    told = north.inspect()
    again = north.inspect()

    assert "keys/a/versions/" in told[0]
    assert again == () or north.inspect() == ()
    assert north.one.store.rows() == rows


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE state SET record = record || zeroblob(1) WHERE place = 'keys/a'",
        "UPDATE state SET mac = zeroblob(32), due = NULL WHERE place = 'keys/a'",
        "UPDATE state SET idx = 'text' WHERE place = 'keys/a'",
        "UPDATE state SET kind = 'none' WHERE place = 'keys/a'",
        "UPDATE state SET place = 'elsewhere' WHERE place = 'keys/a'",
        "UPDATE state SET place = x'00' WHERE place = 'keys/a'",
        "DELETE FROM state WHERE place = 'keys/a'",
        "DELETE FROM state WHERE parent = 'keys/a'",
    ],
)
def test_a_row_that_is_not_the_regions_own_or_is_gone_sounds_an_alarm(
    north: Region, edit: str
) -> None:
    """Nothing vouches for it, so nothing is made of it either."""
    north.edit(edit)

    (told,) = north.inspect()
    (still,) = north.inspect()

    assert "keys/a" in told or "elsewhere" in told
    assert still == told
    assert north.notes.events == []


def test_a_request_whose_mark_was_taken_out_of_a_running_log_is_missed(
    north: Region,
) -> None:
    """Without it a request that is repeated would be done twice."""
    rotate = RotateKeyRequest(name="keys/b", request_id="once")
    north.one.uma.keys.RotateKey(rotate)
    assert north.inspect() == ()

    north.edit("DELETE FROM requests WHERE request_id = 'once'")

    (told,) = north.inspect()
    assert "log" in told


def test_what_one_page_hides_the_next_one_finds(
    north: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "ROWS", 1)
    monkeypatch.setattr(inspecting, "ENTRIES", 1)
    north.edit("UPDATE state SET due = NULL WHERE place = 'keys/a'")
    north.edit("DELETE FROM state WHERE parent = 'keys/b'")

    told = " ".join(north.inspect())

    assert "keys/a" in told
    assert "keys/b/versions/" in told
    assert "2 in this pass" in told


def test_a_pass_goes_on_where_partitions_and_the_audit_trail_were_away(
    north: Region,
) -> None:
    north.edit("UPDATE state SET due = NULL WHERE place = 'keys/a'")
    north.workers.away = True
    away = north.inspect(steps=3)
    north.workers.away, north.notes.full = False, True
    unrecorded = north.inspect(steps=3)
    hidden = north.due()

    north.notes.full = False
    mended = north.inspect()

    # Nothing was mended that could not have been recorded.
    assert (away, unrecorded, hidden) == ((), (), [])
    assert "keys/a" in mended[0]
    assert north.due() == ["keys/a"]


def test_what_cannot_be_read_for_long_sounds_an_alarm(north: Region) -> None:
    north.workers.away = True
    soon = north.inspect(steps=PATIENCE - 1)
    (told,) = north.inspect(steps=1)
    north.workers.away = False
    after = north.inspect()

    assert soon == ()
    assert told.startswith("store unread: ")
    assert after == ()
