"""Rows edited behind the vault's back are refused, and never used.

The attacker writes to the database as they like, but has no session in the HSM.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hsmvault.model.access import CRYPTO_USER
from hsmvault.v1.access_service_pb2 import DeleteRoleAssignmentRequest
from hsmvault.v1.key_service_pb2 import (
    GetKeyRequest,
    ListKeysRequest,
    RotateKeyRequest,
    UpdateKeyRequest,
)
from hsmvault.v1.resources_pb2 import Key
from tests.support.served import Served, grant, make_key, refusal, served, signed

DATA_LOSS = grpc.StatusCode.DATA_LOSS


@pytest.fixture
def keys() -> dict[str, bytes]:
    """The region's keys, which outlive a restart."""
    return {}


@pytest.fixture
def north(tmp_path: Path, keys: dict[str, bytes]) -> Iterator[Served]:
    with served(tmp_path, keys=keys) as one:
        yield one


def _edit(directory: Path, statement: str, *values: Any) -> None:
    database = sqlite3.connect(directory / "north.db", isolation_level=None)
    try:
        assert database.execute(statement, values).rowcount > 0
    finally:
        database.close()


def _column(directory: Path, query: str, *values: Any) -> Any:
    database = sqlite3.connect(directory / "north.db")
    try:
        return database.execute(query, values).fetchone()
    finally:
        database.close()


def _rewrite(directory: Path, resource: str, **fields: Any) -> None:
    """Edit a record in state and in the log alike, with what needs no key."""
    (raw,) = _column(directory, "SELECT record FROM state WHERE resource=?", resource)
    edited = json.dumps(
        json.loads(raw) | fields, sort_keys=True, separators=(",", ":")
    ).encode()
    for table in ("state", "log"):
        _edit(directory, f"UPDATE {table} SET record=? WHERE record=?", edited, raw)  # noqa: S608


@pytest.mark.parametrize(
    ("resource", "fields"),
    [
        ("keys/a", {"enabled": True}),
        ("keys/a", {"operations": ["sign"]}),
        ("keys/a", {"expire_ms": 9}),
    ],
)
def test_an_edited_key_is_refused(
    tmp_path: Path, keys: dict[str, bytes], resource: str, fields: dict[str, Any]
) -> None:
    with served(tmp_path, keys=keys) as north:
        make_key(north, "a")
        make_key(north, "b")
        north.uma.keys.UpdateKey(
            UpdateKeyRequest(key=Key(name="keys/a", enabled=False))
        )
    _rewrite(tmp_path, resource, **fields)

    with served(tmp_path, keys=keys, partition="p1") as north:
        told = refusal(lambda: signed(north.uma, "keys/a"))
        read = refusal(lambda: north.uma.keys.GetKey(GetKeyRequest(name="keys/a")))
        listed = refusal(lambda: north.uma.keys.ListKeys(ListKeysRequest()))

        assert told[0] is read[0] is listed[0] is DATA_LOSS
        assert "keys/a" in listed[2]
        assert signed(north.uma, "keys/b").signature


def test_a_forged_assignment_lets_nobody_in(
    tmp_path: Path, keys: dict[str, bytes]
) -> None:
    with served(tmp_path, keys=keys):
        pass
    _rewrite(tmp_path, "roleAssignments/tom", principal="CN=eve")

    with served(tmp_path, keys=keys, partition="p1") as north:
        told = refusal(lambda: north.eve.keys.ListKeys(ListKeysRequest()))

    assert told[:2] == (DATA_LOSS, "INTEGRITY_FAILURE")


def test_a_revoked_assignment_put_back_as_it_was_lets_nobody_in(
    tmp_path: Path, keys: dict[str, bytes]
) -> None:
    """The old row has this region's own MAC; the log knows that it is old."""
    with served(tmp_path, keys=keys) as north:
        make_key(north, "a")
        granted = grant(north, "kim", CRYPTO_USER)
        old = _row(tmp_path, granted.name)
        north.ada.access.DeleteRoleAssignment(
            DeleteRoleAssignmentRequest(name=granted.name)
        )
    _put_back(tmp_path, granted.name, old)

    with served(tmp_path, keys=keys, partition="p1") as north:
        told = refusal(lambda: signed(north.kim, "keys/a"))

    assert told[0] is DATA_LOSS


def _row(directory: Path, resource: str) -> dict[str, Any]:
    database = sqlite3.connect(directory / "north.db")
    database.row_factory = sqlite3.Row
    try:
        row = database.execute(
            "SELECT * FROM state WHERE resource=?", (resource,)
        ).fetchone()
        return dict(row)
    finally:
        database.close()


def _put_back(directory: Path, resource: str, row: dict[str, Any]) -> None:
    columns = [name for name in row if name != "resource"]
    assigned = ", ".join(f'"{name}"=?' for name in columns)
    _edit(
        directory,
        f"UPDATE state SET {assigned} WHERE resource=?",  # noqa: S608
        *(row[name] for name in columns),
        resource,
    )


@pytest.mark.parametrize(
    "attack",
    [
        lambda d, mine, _: _edit(
            d, "UPDATE wrapped SET wrapped=zeroblob(48) WHERE version=?", mine
        ),
        lambda d, mine, other: _edit(
            d,
            "UPDATE wrapped SET (wrapped, mac) = (SELECT wrapped, mac FROM wrapped "
            "WHERE version=?) WHERE version=?",
            other,
            mine,
        ),
        lambda d, mine, _: _edit(
            d, "UPDATE wrapped SET mac=zeroblob(32) WHERE version=?", mine
        ),
    ],
    ids=["zeroed", "another's", "without its mac"],
)
def test_a_wrapped_key_that_is_not_the_version_s_own_is_refused(
    tmp_path: Path, keys: dict[str, bytes], attack: Callable[[Path, str, str], None]
) -> None:
    with served(tmp_path, keys=keys) as north:
        mine, other = (
            make_key(north, k).current_version.rpartition("/")[2] for k in ("a", "b")
        )
    attack(tmp_path, mine, other)

    with served(tmp_path, keys=keys, partition="p1") as north:
        told = refusal(lambda: signed(north.uma, "keys/a"))

        assert told[0] is DATA_LOSS
        assert signed(north.uma, "keys/b").signature


def test_a_key_that_was_used_before_the_edit_goes_on_as_it_was(
    north: Served, tmp_path: Path
) -> None:
    version = make_key(north, "a").current_version
    other = north.uma.keys.RotateKey(RotateKeyRequest(name="keys/a")).name
    assert signed(north.uma, "keys/a").name == other
    _rewrite(tmp_path, "keys/a", current=version.rpartition("/")[2])

    assert signed(north.uma, "keys/a").name == other
    assert signed(north.uma, version).name == version
