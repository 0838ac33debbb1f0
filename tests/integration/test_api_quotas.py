"""Limits on keys and versions hold under any number of writers, and name themselves."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key
from hsmvault.v1.resources_pb2 import KeySpec as Spec
from tests.support.served import (
    Served,
    genesis,
    make_key,
    refusal,
    region,
    served,
    signed,
)
from tests.support.settings import update

FULL = (grpc.StatusCode.FAILED_PRECONDITION, "LIMIT_REACHED")


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


def _create(north: Served, key_id: str, *, validate_only: bool = False) -> Key:
    return north.uma.keys.CreateKey(
        keys.CreateKeyRequest(
            key_id=key_id, key=Key(spec=Spec(type="EC")), validate_only=validate_only
        )
    )


def _rotate(north: Served, key_id: str) -> object:
    return north.uma.keys.RotateKey(keys.RotateKeyRequest(name=f"keys/{key_id}"))


def _outcomes(ask: Callable[[int], object], count: int) -> Counter[str]:
    def one(number: int) -> str:
        try:
            ask(number)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(one, range(count)))


def test_deleted_keys_count_and_purged_ones_do_not(north: Served) -> None:
    update(north, key_limit=2)
    make_key(north, "a")
    make_key(north, "b")
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/a"))

    code, reason, message = refusal(lambda: _create(north, "c"))
    only_asked = refusal(lambda: _create(north, "c", validate_only=True))
    north.olga.keys.PurgeKey(keys.PurgeKeyRequest(name="keys/a"))

    assert (code, reason) == only_asked[:2] == FULL
    assert "there are 2 keys" in message
    assert "key_limit is 2" in message
    assert "hsmvault vault set --key-limit" in message
    assert _create(north, "c").position


def test_nothing_is_made_in_the_hsm_for_a_key_that_has_no_room(
    north: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever may create keys could keep the HSM busy for nothing."""
    make_key(north, "a")
    update(north, key_limit=1, version_limit=1)

    def generate(*_args: object, **_named: object) -> None:
        raise AssertionError("the HSM was asked to make material")

    monkeypatch.setattr(north.hsm, "generate", generate)

    assert refusal(lambda: _create(north, "b"))[:2] == FULL
    assert refusal(lambda: _rotate(north, "a"))[:2] == FULL


def test_parallel_creates_never_pass_the_limit_together(north: Served) -> None:
    update(north, key_limit=3)

    outcomes = _outcomes(lambda n: _create(north, f"k{n}"), 12)

    assert outcomes["OK"] == 3
    assert set(outcomes) <= {"OK", "FAILED_PRECONDITION", "ABORTED"}
    assert north.store.key_count() == 3


def test_parallel_rotations_never_pass_the_limit_together(tmp_path: Path) -> None:
    """In a vault of two regions new versions are pending, and change no key."""
    with served(tmp_path, records=genesis(region("south"))) as north:
        make_key(north, "a")
        update(north, version_limit=4)

        outcomes = _outcomes(lambda _n: _rotate(north, "a"), 10)

        assert outcomes["OK"] == 3
        assert set(outcomes) <= {"OK", "FAILED_PRECONDITION", "ABORTED"}
        assert north.store.version_count("keys/a") == 4
        code, reason, message = refusal(lambda: _rotate(north, "a"))
        assert (code, reason) == FULL
        assert "keys/a has 4 versions" in message
        assert "hsmvault vault set --version-limit" in message


def test_a_limit_below_what_there_is_stops_new_ones_and_nothing_else(
    north: Served,
) -> None:
    for name in ("a", "b", "c"):
        make_key(north, name)
    update(north, key_limit=1)

    assert refusal(lambda: _create(north, "d"))[:2] == FULL
    assert signed(north.uma, "keys/c").signature
    assert _rotate(north, "a")
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name="keys/b"))
    assert north.olga.keys.RecoverKey(keys.RecoverKeyRequest(name="keys/b")).position
    assert update(north, key_limit=0).key_limit == 0
    assert _create(north, "d").position
