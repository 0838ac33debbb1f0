"""What was asked once is remembered for as long as the log, and in every region."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hsmvault.model.algorithms import KeySpec
from hsmvault.model.rotation import DAY_MS
from hsmvault.v1 import key_service_pb2 as keys
from tests.support.clock import Clock
from tests.support.importing import begun, carried
from tests.support.incoming import outside
from tests.support.served import Served, make_key, refusal, served

TEN_YEARS_MS = 3650 * DAY_MS
AES = KeySpec.of("oct", bits=256)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def north(tmp_path: Path, clock: Clock) -> Iterator[Served]:
    with served(tmp_path, clock=clock) as one:
        yield one


def test_a_request_that_is_repeated_ten_years_later_is_not_done_again(
    north: Served, clock: Clock
) -> None:
    make_key(north, "a")
    rotate = keys.RotateKeyRequest(name="keys/a", request_id="once")
    first = north.uma.keys.RotateKey(rotate)
    before = north.store.head()
    clock.now_ms += TEN_YEARS_MS

    again = north.uma.keys.RotateKey(rotate)

    assert again == first
    assert north.store.head() == before


def test_an_import_that_was_used_is_still_told_as_used_ten_years_later(
    north: Served, clock: Clock
) -> None:
    by, key = begun(north), outside(AES)
    made = carried(north, by, AES, key)
    north.uma.keys.DeleteKey(keys.DeleteKeyRequest(name=made.name))
    north.olga.keys.PurgeKey(keys.PurgeKeyRequest(name=made.name))
    clock.now_ms += TEN_YEARS_MS

    code, reason, told = refusal(lambda: carried(north, by, AES, key))

    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IMPORT_SPENT")
    assert "was used at" in told
