"""RS-07: callers who go away before they are answered take nothing from the others.

By callers with valid certificates and deadlines shorter than what they ask for.
"""

import time
from collections.abc import Iterator

import grpc
import pytest

from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1.crypto_service_pb2 import SignRequest
from hsmvault.v1.key_service_pb2 import CreateKeyRequest, GetKeyRequest
from hsmvault.v1.region_service_pb2 import WaitForPositionRequest
from hsmvault.v1.resources_pb2 import Key, KeySpec
from tests.support.callers import SECONDS, Callers, create, populated_vault, sign

pytestmark = pytest.mark.softhsm

STORM = 600
"""Calls whose callers do not wait; more than all pools of the region hold."""


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with populated_vault(tmp_path_factory.mktemp("rs07")) as callers:
        create(callers(), "ec")
        create(callers(), "rsa", "RSA", bits=3072)
        yield callers


def _processes(call: Callers) -> dict[str, int]:
    return {name: call.vault.north.partition(name)["pid"] for name in PARTITIONS}


def test_a_storm_of_calls_that_are_given_up_leaves_the_region_serving(
    call: Callers,
) -> None:
    before = _processes(call)
    alice = call()
    slow = SignRequest(name="keys/rsa", algorithm="PS256", digest=bytes(32))
    never = WaitForPositionRequest(position="1.north.999999")

    signing = [
        alice.crypto.Sign.future(slow, timeout=0.002 * (n % 20))
        for n in range(STORM // 2)
    ]
    waiting = [
        alice.regions.WaitForPosition.future(never, timeout=0.002 * (n % 20))
        for n in range(STORM // 2)
    ]
    codes = {f.code() for f in signing} | {f.code() for f in waiting}

    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert not codes & {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    for partition in PARTITIONS:
        assert sign(call(partition=partition), "keys/ec").signature
    assert _processes(call) == before


def test_a_write_that_was_given_up_is_made_once_by_its_request_id(
    call: Callers,
) -> None:
    alice = call()
    asked = CreateKeyRequest(
        key_id="given-up",
        key=Key(spec=KeySpec(type="RSA", bits=2048)),
        request_id="given-up-1",
    )
    given_up = [alice.keys.CreateKey.future(asked, timeout=0.01) for _ in range(4)]
    codes = {call.code() for call in given_up}

    made = alice.keys.CreateKey(asked, timeout=SECONDS)

    # On a busy machine the last may be begun when the first was made already.
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert codes <= {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK}
    again = alice.keys.CreateKey(asked, timeout=SECONDS)
    assert (again.incarnation, again.position) == (made.incarnation, made.position)
    found = alice.keys.GetKey(GetKeyRequest(name="keys/given-up"), timeout=SECONDS)
    assert found.incarnation == made.incarnation


def test_a_call_that_is_cancelled_ends_for_its_caller_at_once(call: Callers) -> None:
    waiting = call().regions.WaitForPosition.future(
        WaitForPositionRequest(position="1.north.999999"), timeout=SECONDS
    )
    time.sleep(0.05)

    waiting.cancel()

    assert waiting.cancelled()
    assert sign(call(), "keys/ec").signature
