"""Whoever can write to the store's file puts back what this region itself once wrote.

The attacker has no PIN and no session in the HSM. Every row that they put in place
bears a MAC of the region's own, from an earlier day; the log's chain needs no key, so
what they append to it is chained rightly.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.model.access import CRYPTO_USER
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.log import Entry, Epoch, Kind, Position, chain
from hsmvault.v1.access_service_pb2 import DeleteRoleAssignmentRequest
from hsmvault.v1.key_service_pb2 import (
    CreateKeyRequest,
    DeleteKeyRequest,
    GetKeyRequest,
    PurgeKeyRequest,
    UpdateKeyRequest,
)
from hsmvault.v1.resources_pb2 import Key, KeySpec
from tests.support.served import Served, grant, make_key, refusal, served, signed

DATA_LOSS = grpc.StatusCode.DATA_LOSS
Rows = list[dict[str, Any]]


class Writer:
    """The attacker at the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, query: str, *values: object) -> Rows:
        with closing(sqlite3.connect(self._path)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def write(self, query: str, *values: object) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as database:
            database.execute(query, values)

    def put(self, table: str, rows: Rows) -> None:
        for row in rows:
            places = ", ".join("?" * len(row))
            names = ", ".join(f'"{name}"' for name in row)
            self.write(
                f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({places})",  # noqa: S608
                *row.values(),
            )

    def below(self, table: str, resource: str) -> Rows:
        return self.read(
            f"SELECT * FROM {table} WHERE resource=? OR resource LIKE ?",  # noqa: S608
            resource,
            f"{resource}/%",
        )

    def restate(self, rows: Rows) -> None:
        """Append entries that say what `rows` said, and put those in force."""
        for row in rows:
            (last,) = self.read("SELECT * FROM log ORDER BY idx DESC LIMIT 1")
            position = Position(Epoch(last["epoch"], last["region"]), last["idx"] + 1)
            kind, resource, record = row["kind"], row["resource"], row["record"]
            entry = Entry(position, last["time_ms"], Kind(kind), resource, record)
            self.put(
                "log",
                [
                    last
                    | {
                        "idx": position.index,
                        "kind": kind,
                        "resource": resource,
                        "record": record,
                        "chain": chain(last["chain"], entry),
                    }
                ],
            )
            self.put("state", [row | {"idx": position.index}])


@pytest.fixture
def keys() -> dict[str, bytes]:
    """The region's keys, which outlive a restart."""
    return {}


@pytest.fixture
def north(tmp_path: Path, keys: dict[str, bytes]) -> Iterator[Served]:
    with served(tmp_path, keys=keys) as one:
        yield one


@pytest.fixture
def writer(north: Served, tmp_path: Path) -> Writer:
    assert north.store.head() is not None
    return Writer(tmp_path / "north.db")


def _disable(north: Served, key: str) -> None:
    north.uma.keys.UpdateKey(UpdateKeyRequest(key=Key(name=key, enabled=False)))


def test_a_disabled_key_that_is_stated_again_as_it_was_is_refused(
    north: Served, writer: Writer
) -> None:
    make_key(north, "a")
    before = writer.read("SELECT * FROM state WHERE resource=?", "keys/a")
    _disable(north, "keys/a")

    writer.restate(before)

    assert refusal(lambda: signed(north.uma, "keys/a"))[0] is DATA_LOSS


def test_a_revoked_assignment_that_is_stated_again_lets_nobody_in(
    north: Served, writer: Writer, tmp_path: Path, keys: dict[str, bytes]
) -> None:
    make_key(north, "a")
    granted = grant(north, "kim", CRYPTO_USER)
    before = writer.below("state", granted.name)
    north.ada.access.DeleteRoleAssignment(
        DeleteRoleAssignmentRequest(name=granted.name)
    )

    writer.restate(before)

    assert refusal(lambda: signed(north.kim, "keys/a"))[0] is DATA_LOSS
    with served(tmp_path, keys=keys, partition="p1") as restarted:
        assert refusal(lambda: signed(restarted.kim, "keys/a"))[0] is DATA_LOSS


def test_a_purged_key_does_not_come_back_out_of_an_old_copy(
    north: Served, writer: Writer
) -> None:
    make_key(north, "a")
    rows = writer.below("state", "keys/a")
    wrapped = writer.read("SELECT * FROM wrapped")
    north.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/a"))
    north.olga.keys.PurgeKey(PurgeKeyRequest(name="keys/a"))

    writer.restate(sorted(rows, key=lambda row: -len(row["resource"])))
    writer.put("wrapped", wrapped)

    assert refusal(lambda: signed(north.uma, "keys/a"))[0] is DATA_LOSS


def test_a_key_that_was_purged_and_made_again_is_as_good_as_any(
    north: Served, writer: Writer
) -> None:
    for _ in range(2):
        make_key(north, "a")
        _disable(north, "keys/a")
        north.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/a"))
        north.olga.keys.PurgeKey(PurgeKeyRequest(name="keys/a"))
    make_key(north, "a")

    assert signed(north.uma, "keys/a").signature
    assert len(writer.below("state", "keys/a")) > 1


def test_a_log_that_is_set_back_while_it_is_served_is_refused(
    north: Served, writer: Writer
) -> None:
    make_key(north, "a")
    granted = grant(north, "kim", CRYPTO_USER)
    (end,) = writer.read("SELECT max(idx) AS idx FROM log")
    before = writer.below("state", granted.name)
    north.ada.access.DeleteRoleAssignment(
        DeleteRoleAssignmentRequest(name=granted.name)
    )
    assert refusal(lambda: signed(north.kim, "keys/a"))[1] == "ACCESS_DENIED"

    writer.put("state", before)
    writer.write("DELETE FROM log WHERE idx > ?", end["idx"])

    assert refusal(lambda: signed(north.kim, "keys/a"))[0] is DATA_LOSS


def test_a_log_that_was_set_back_and_went_another_way_is_refused(
    north: Served, writer: Writer
) -> None:
    made = make_key(north, "a")
    _disable(north, "keys/a")
    assert refusal(lambda: signed(north.uma, "keys/a"))[1] == "KEY_NOT_ENABLED"
    rows = writer.below("state", "keys/a")

    # One more entry than was taken away: the log is longer than it was.
    writer.write("DELETE FROM log WHERE idx = (SELECT max(idx) FROM log)")
    writer.restate([rows[1], rows[1]])

    told = refusal(lambda: north.uma.keys.GetKey(GetKeyRequest(name=made.name)))
    assert told[0] is DATA_LOSS


def test_a_disabled_key_whose_last_entry_is_taken_away_is_refused(
    north: Served, writer: Writer
) -> None:
    """The log is broken by it, in the midst, where nobody reads it any more."""
    make_key(north, "a")
    before = writer.read("SELECT * FROM state WHERE resource=?", "keys/a")
    _disable(north, "keys/a")
    (taken,) = writer.read("SELECT max(idx) AS idx FROM log")
    make_key(north, "b")
    assert signed(north.uma, "keys/b").signature

    writer.write("DELETE FROM log WHERE idx = ?", taken["idx"])
    writer.put("state", before)

    assert refusal(lambda: signed(north.uma, "keys/a"))[0] is DATA_LOSS


def test_a_request_is_not_answered_by_a_mark_that_no_partition_made(
    north: Served, writer: Writer
) -> None:
    asked = CreateKeyRequest(
        key_id="a", key=Key(spec=KeySpec(type="EC")), request_id="once"
    )
    made = north.uma.keys.CreateKey(asked)
    (mark,) = writer.read("SELECT * FROM requests")
    forged = json.loads(mark["answer"]) | {"current": "0" * 32}
    answer = json.dumps(forged, sort_keys=True, separators=(",", ":")).encode()

    assert north.uma.keys.CreateKey(asked) == made
    writer.put("requests", [mark | {"answer": answer}])

    assert refusal(lambda: north.uma.keys.CreateKey(asked))[0] is DATA_LOSS


def test_a_log_is_not_believed_to_begin_after_entries_that_it_holds(
    north: Served, writer: Writer
) -> None:
    make_key(north, "a")
    assert north.store.verify_chain() == north.store.head()
    (last,) = writer.read("SELECT * FROM log ORDER BY idx DESC LIMIT 1")
    place = f"{last['epoch']}.{last['region']}.{last['idx']}:{last['chain'].hex()}"

    writer.put("meta", [{"name": "base", "value": place}])

    with pytest.raises(IntegrityFailure):
        north.store.verify_chain()


def test_a_log_that_is_made_to_begin_later_is_not_served(
    north: Served, writer: Writer, tmp_path: Path, keys: dict[str, bytes]
) -> None:
    """Before its beginning a log is silent: there, old rows would be believed."""
    make_key(north, "a")
    granted = grant(north, "kim", CRYPTO_USER)
    before = writer.below("state", granted.name)
    north.ada.access.DeleteRoleAssignment(
        DeleteRoleAssignmentRequest(name=granted.name)
    )
    (last,) = writer.read("SELECT * FROM log ORDER BY idx DESC LIMIT 1")
    place = f"{last['epoch']}.{last['region']}.{last['idx'] + 9}:{last['chain'].hex()}"

    writer.put("state", before)
    writer.put("meta", [{"name": "base", "value": place}])
    writer.write("DELETE FROM log")

    assert refusal(lambda: signed(north.kim, "keys/a"))[0] is DATA_LOSS
    with served(tmp_path, keys=keys, partition="p1") as restarted:
        assert refusal(lambda: signed(restarted.kim, "keys/a"))[0] is DATA_LOSS
