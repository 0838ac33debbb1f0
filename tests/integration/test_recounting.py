"""Counts that were lost, deleted, set back or forged are noticed, and versions stop.

The attacker writes the file of the counters, and has old copies of it; they have no
session in the HSM, so every row of theirs bears a MAC that the region itself once made.
"""

import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hsmvault.model.algorithms import Operation
from hsmvault.model.errors import IntegrityFailure, InvocationsExhausted, VaultError
from hsmvault.model.invocations import SINCE, former_statement, statement
from hsmvault.model.names import KeyName
from hsmvault.server.recounts import Recounts
from hsmvault.store.counters import Counters
from hsmvault.vault.crypto import Crypto
from hsmvault.vault.invocations import SKEW_MS, Invocations
from hsmvault.vault.memory import Memory
from hsmvault.vault.plans import Plans
from hsmvault.vault.recounting import Remembering
from tests.support.nodes import until
from tests.support.served import VAULT_ID, Served, make_key, served

BOX = KeyName.of_id("box")
NOW = 1_800_000_000_000
URL = "sqlite:///north.db"
FIRST_BLOCK = 256


def now() -> int:
    return NOW


class Region:
    """One region's processes, and the attacker at its file."""

    def __init__(self, one: Served, directory: Path) -> None:
        self.one = one
        self.directory = directory
        self.file = directory / "north-counters.db"
        self.opened = Counters.open(URL, home=directory)
        self.remembering = self.remembers()

    def remembers(self) -> Remembering:
        return Remembering(self.opened, self.one.hsm, vault_id=VAULT_ID, region="north")

    def process(self) -> Crypto:
        """What another partition's process has of its own: memory, and blocks."""
        memory = Memory(self.one.store, self.one.hsm, region="north")
        memory.refresh()
        plans = Plans(memory, now)
        return Crypto(self.one.hsm, plans, Invocations(self.opened, memory))

    def version(self, key: str = "box") -> str:
        (row,) = self.one.store.states("key_version", prefix=f"keys/{key}/")  # type: ignore[arg-type]
        return row.resource.rpartition("/")[2]

    def edit(self, statement_: str, *values: object) -> None:
        with closing(sqlite3.connect(self.file)) as connection:
            connection.execute(statement_, values)
            connection.commit()

    def row(self, key: str = "box") -> tuple[object, ...]:
        query = "SELECT taken, times, mac FROM invocations WHERE version = ?"
        with closing(sqlite3.connect(self.file)) as connection:
            found: tuple[object, ...] = connection.execute(
                query, (self.version(key),)
            ).fetchone()
        return found

    def put_back(self, row: tuple[object, ...], key: str = "box") -> None:
        self.edit(
            "UPDATE invocations SET taken = ?, times = ?, mac = ? WHERE version = ?",
            *row,
            self.version(key),
        )


def encrypt(crypto: Crypto, times: int = 1, key: KeyName = BOX) -> None:
    for _ in range(times):
        crypto.encrypt(key, None, "A256GCM", b"x", b"")


def assert_stopped(region: Region) -> None:
    with pytest.raises(InvocationsExhausted, match="lost or set back"):
        encrypt(region.process())
    # From now on all is there again, and what is made later is counted.
    assert region.remembers().compare(now)
    assert region.remembers().recount(now)
    later = region.process()
    plan = later.plans.plan(BOX, None, "A256GCM", Operation.ENCRYPT)
    later.invocations.count(dataclasses.replace(plan, create_ms=NOW + SKEW_MS + 1))
    assert region.remembers().recount(now)


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Region]:
    with served(tmp_path, clock=now) as one:
        for key in ("box", "other"):
            make_key(one, key, "oct", bits=256)
        region = Region(one, tmp_path)
        assert region.remembering.compare(now)
        with closing(region.opened):
            yield region


def test_counts_of_several_processes_add_up_and_nothing_stops(north: Region) -> None:
    for _ in range(3):
        encrypt(north.process(), FIRST_BLOCK + 1)
        encrypt(north.process(), key=KeyName.of_id("other"))

        assert north.remembers().recount(now)
        assert north.remembering.write(now)

    assert north.remembers().compare(now)
    assert north.one.hsm.read_generation() == SINCE + 9


@pytest.mark.parametrize(
    "edit",
    ["taken = 0", "times = 0", "mac = x'00'", "mac = 'text'", "taken = 'text'"],
)
def test_a_count_that_this_region_did_not_write_is_not_believed(
    north: Region, edit: str
) -> None:
    encrypt(north.process())

    north.edit(f"UPDATE invocations SET {edit}")  # noqa: S608

    with pytest.raises(IntegrityFailure, match="hsmvault key rotate"):
        encrypt(north.process())
    assert not north.remembers().recount(now)
    assert_stopped(north)


def _deleted(region: Region) -> None:
    region.edit("DELETE FROM invocations WHERE version = ?", region.version())


def _anothers(region: Region) -> None:
    """The same row twice, for SQLite keeps bytes beside text: the sum is as it was."""
    encrypt(region.process(), key=KeyName.of_id("other"))
    region.edit(
        "INSERT INTO invocations SELECT CAST(version AS BLOB), taken, times, mac "
        "FROM invocations WHERE version = ?",
        region.version("other"),
    )
    _deleted(region)
    region.edit("UPDATE counter_marks SET value = value - 1 WHERE name = 'generation'")


def _set_back(region: Region) -> None:
    before = region.row()
    encrypt(region.process(), FIRST_BLOCK + 1)
    region.put_back(before)


def _excused(region: Region) -> None:
    """What is missing is said to be more, without a MAC."""
    _deleted(region)
    region.edit("UPDATE counter_missing SET value = value + 2")


def _begun_again(region: Region) -> None:
    """As if an earlier release had written it: what counts then is taken over."""
    _deleted(region)
    region.edit("DELETE FROM counter_missing")
    region.edit("UPDATE counter_marks SET value = 5 WHERE name = 'generation'")


@pytest.mark.parametrize(
    "attack", [_deleted, _anothers, _set_back, _excused, _begun_again]
)
def test_a_row_that_was_deleted_or_put_back_while_nobody_used_it_is_noticed(
    north: Region, attack: Callable[[Region], None]
) -> None:
    encrypt(north.process(), FIRST_BLOCK + 1)
    assert north.remembering.write(now)

    attack(north)
    encrypt(north.process())

    # As at the next start, and every hour.
    remembers = north.remembers()
    assert not (remembers.compare(now) and remembers.recount(now))
    assert_stopped(north)


@pytest.mark.parametrize("attack", [_deleted, _set_back])
def test_a_process_notices_by_itself_that_its_own_count_went_back(
    north: Region, attack: Callable[[Region], None]
) -> None:
    crypto = north.process()
    encrypt(crypto)
    if attack is _set_back:
        before = north.row()
        encrypt(crypto, FIRST_BLOCK)
        north.put_back(before)
    else:
        attack(north)

    # What is left of the block that it has, at most.
    with pytest.raises(IntegrityFailure, match="set back or deleted"):
        encrypt(crypto, 2 * FIRST_BLOCK)


@pytest.mark.parametrize("how", ["deleted", "set back"])
def test_counters_that_were_lost_are_noticed_and_old_versions_stop(
    north: Region, how: str
) -> None:
    """The attacker, or a restored backup, has put the file of some time ago there."""
    encrypt(north.process())
    north.opened.close()
    old = north.file.read_bytes()
    north.opened = Counters.open(URL, home=north.directory)
    encrypt(north.process())
    remembers = north.remembers()
    assert remembers.write(now)
    assert remembers.compare(now)
    north.opened.close()

    for path in north.directory.glob("north-counters.db*"):
        path.unlink()
    if how == "set back":
        north.file.write_bytes(old)
    north.opened = Counters.open(URL, home=north.directory)

    assert not north.remembers().compare(now)
    assert_stopped(north)


def test_counters_that_are_set_back_while_they_are_used_are_noticed(
    north: Region,
) -> None:
    """The attacker writes an old state into the file, and lets it catch up."""
    with (
        closing(sqlite3.connect(north.file)) as live,
        closing(sqlite3.connect("")) as old,
    ):
        live.backup(old)
        for _ in range(3):
            encrypt(north.process())
        assert north.remembering.write(now)
        old.backup(live)

    assert not north.remembering.write(now)
    assert_stopped(north)
    assert north.remembering.write(now)


def test_what_was_found_lost_is_not_forgotten_by_a_copy_of_before(
    north: Region,
) -> None:
    encrypt(north.process())
    with (
        closing(sqlite3.connect(north.file)) as live,
        closing(sqlite3.connect("")) as old,
    ):
        live.backup(old)
        _deleted(north)
        assert not north.remembering.recount(now)
        assert north.remembering.write(now)
        old.backup(live)

    assert not north.remembers().compare(now)
    assert_stopped(north)


def test_counting_goes_on_while_it_is_added_up(north: Region) -> None:
    processes = [north.process() for _ in range(2)]
    threads = [
        threading.Thread(target=encrypt, args=(one, 20 * FIRST_BLOCK))
        for one in processes
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert north.remembers().recount(now)
    assert north.remembers().recount(now)


def test_a_partition_adds_up_when_it_starts_and_again_and_again(
    north: Region,
) -> None:
    encrypt(north.process())
    with Recounts(north.remembers(), now, seconds=0.01):
        _deleted(north)
        until(lambda: north.opened.lost_ms() == NOW)
    assert_stopped(north)


# --- what an earlier release counted ---------------------------------------------


def _former(region: Region, taken: int, *, mac: bytes = b"") -> None:
    """Leave the file as an earlier release had written it."""
    version = region.version()
    said = former_statement(VAULT_ID, "north", version, taken)
    (good,) = region.one.hsm.mac([said])
    for table in ("invocations", "counter_missing", "counter_marks"):
        region.edit(f"DELETE FROM {table}")  # noqa: S608
    region.edit("INSERT INTO counters VALUES (?, ?, ?)", version, taken, mac or good)
    region.edit("INSERT INTO counter_marks VALUES ('generation', 3)")


def test_what_an_earlier_release_counted_is_taken_over(north: Region) -> None:
    _former(north, 5000)

    assert north.remembers().compare(now)
    encrypt(north.process())

    assert north.row()[:2] == (5000 + FIRST_BLOCK, 2)
    assert north.remembers().recount(now)
    assert north.opened.generation() == SINCE + 4
    assert north.opened.former() == []


def test_what_an_earlier_release_did_not_count_itself_is_not_taken_over(
    north: Region,
) -> None:
    _former(north, 0, mac=bytes(32))

    assert not north.remembers().compare(now)
    assert_stopped(north)


def test_a_file_of_an_earlier_release_is_not_taken_for_the_present_one(
    north: Region,
) -> None:
    encrypt(north.process())
    assert north.remembering.write(now)

    _former(north, 0)

    assert not north.remembers().compare(now)
    assert_stopped(north)


def test_a_mac_of_an_earlier_release_is_none_of_this_one(north: Region) -> None:
    version = north.version()
    old = former_statement(VAULT_ID, "north", version, 5)

    assert old != statement(VAULT_ID, "north", version, 5, 0)


def test_counters_that_do_not_read_stop_what_they_count(north: Region) -> None:
    encrypt(north.process())
    north.edit("UPDATE counter_marks SET value = 'text'")

    with pytest.raises(VaultError):
        encrypt(north.process())
    with pytest.raises(IntegrityFailure):
        north.remembers().recount(now)


def test_the_token_s_memory_never_goes_back(north: Region) -> None:
    north.one.hsm.write_generation(7)
    north.one.hsm.write_generation(5)

    assert north.one.hsm.read_generation() == 7
