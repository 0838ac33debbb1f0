"""The client goes on while anybody answers, and repeats only what is harmless."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

import hsmvault
from hsmvault.client.errors import DeadlineExceeded
from hsmvault.model import errors
from hsmvault.v1.key_service_pb2 import CreateKeyRequest
from hsmvault.v1.region_service_pb2 import WaitForPositionResponse
from hsmvault.v1.resources_pb2 import Region
from tests.support.pretend_vault import (
    STANDARD,
    Answer,
    PretendPartition,
    PretendVault,
    pretend_vault,
    refuse,
)

DIGEST = bytes(32)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[PretendVault]:
    with pretend_vault(tmp_path) as pretended:
        yield pretended


def sign(client: "hsmvault.Vault") -> str:
    served = client.sign("payroll", "ES256", digest=DIGEST).served
    return f"{served.region}/{served.partition}"


def warm(client: "hsmvault.Vault", region: str) -> None:
    """Wait for all of a region: connecting waits a second for the preferred one."""
    while client._pool.unready(region):
        time.sleep(0.01)


def test_all_partitions_of_the_preferred_region_take_turns(vault: PretendVault) -> None:
    with vault.connect(region="south") as client:
        warm(client, "south")
        served = Counter(sign(client) for _ in range(30))

    assert set(served) == {"south/p0", "south/p1", "south/p2"}
    assert set(served.values()) == {10}


def test_without_a_wish_the_region_that_was_dialled_is_preferred(
    vault: PretendVault,
) -> None:
    with vault.connect() as client:
        assert client.order == ("north", "south")
        assert sign(client).startswith("north/")


def test_a_partition_that_dies_costs_no_call(vault: PretendVault) -> None:
    failed: list[Exception] = []
    done = threading.Event()

    with vault.connect() as client:

        def load() -> None:
            while not done.is_set():
                try:
                    sign(client)
                except errors.VaultError as error:
                    failed.append(error)

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for partition in vault.regions["north"]:
            partition.stop()
            before = len(vault.calls)
            while len(vault.calls) < before + 50:
                pass
            partition.start()
        done.set()
        for thread in threads:
            thread.join()

    assert not failed


def test_a_region_that_dies_is_followed_by_the_next_and_taken_back(
    vault: PretendVault,
) -> None:
    with vault.connect(region="north") as client:
        warm(client, "south")
        for partition in vault.regions["north"]:
            partition.stop()
        elsewhere = {sign(client) for _ in range(9)}
        for partition in vault.regions["north"]:
            partition.start()
        back = sign(client)
        while not back.startswith("north/"):
            back = sign(client)

    assert elsewhere == {"south/p0", "south/p1", "south/p2"}


def test_a_partition_that_is_not_serving_is_left_alone(vault: PretendVault) -> None:
    def sick(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Region:
        refuse(context, grpc.StatusCode.UNAVAILABLE, "NOT_SERVING")
        return Region()

    vault.answers["north", "p1", "Sign"] = sick

    with vault.connect(region="north") as client:
        warm(client, "north")
        served = {sign(client) for _ in range(12)}

    assert served == {"north/p0", "north/p2"}
    asked = [
        c for c in vault.asked("Sign") if (c.region, c.partition) == ("north", "p1")
    ]
    assert len(asked) < 6


def test_a_write_is_repeated_with_the_same_request_id(vault: PretendVault) -> None:
    answered = threading.Event()

    def once(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Message:
        if not answered.is_set():
            answered.set()
            refuse(context, grpc.StatusCode.UNAVAILABLE, "PARTITION_LOST")
        return STANDARD["CreateKey"](partition, request, context)

    vault.answers["north", "", "CreateKey"] = once

    with vault.connect() as client:
        key = client.keys.create("payroll")

    ids = [
        CreateKeyRequest.FromString(c.request).request_id
        for c in vault.asked("CreateKey")
    ]
    assert key.name == "keys/payroll"
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert ids[0]


def test_a_policy_that_forbids_writes_is_an_answer_not_a_failure(
    vault: PretendVault,
) -> None:
    def refused(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Region:
        refuse(
            context,
            grpc.StatusCode.FAILED_PRECONDITION,
            "PRIMARY_UNAVAILABLE",
            "north cannot be reached; policy {manual}",
            policy="manual",
        )
        return Region()

    vault.answers["south", "", "CreateKey"] = refused

    with (
        vault.connect(region="south") as client,
        pytest.raises(errors.PrimaryUnavailable, match=r"policy \{manual\}") as raised,
    ):
        client.keys.create("payroll")

    assert raised.value.facts == {"policy": "manual"}
    assert [c.region for c in vault.asked("CreateKey")] == ["south"]


def redirecting(primary: str, endpoint: str) -> Answer:
    def answer(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Region:
        refuse(
            context,
            grpc.StatusCode.FAILED_PRECONDITION,
            "NOT_PRIMARY",
            # As servers say it: who refuses, and where to go.
            region=partition.region,
            primary=primary,
            endpoint=endpoint,
        )
        return Region()

    return answer


def test_a_redirect_to_the_primary_is_followed(vault: PretendVault) -> None:
    primary = vault.regions["north"][0].address
    vault.answers["south", "", "CreateKey"] = redirecting("north", primary)

    with vault.connect(region="south") as client:
        client.keys.create("payroll")

    assert [c.region for c in vault.asked("CreateKey")] == ["south", "north"]


@pytest.mark.parametrize(
    ("region", "endpoint"),
    (("north", "127.0.0.1:9"), ("elsewhere", "127.0.0.1:9"), ("elsewhere", "")),
)
def test_a_redirect_to_a_stranger_is_not_followed(
    vault: PretendVault, region: str, endpoint: str
) -> None:
    """Whoever runs a region must not be able to send callers to a server of theirs."""
    vault.answers["south", "", "CreateKey"] = redirecting(region, endpoint)

    with vault.connect(region="south") as client, pytest.raises(errors.NotPrimary):
        client.keys.create("payroll")

    assert [c.region for c in vault.asked("CreateKey")] == ["south"]


def test_a_session_reads_its_own_writes_in_any_region(vault: PretendVault) -> None:
    with vault.connect(region="south") as client:
        session = client.session()
        session.keys.get("payroll")
        session.keys.create("payroll")
        session.keys.get("payroll")

        later = client.session(session.position)
        later.keys.get("payroll")

    waited = [c.metadata.get("min-position") for c in vault.asked("GetKey")]
    assert waited == [None, "1.north.10", "1.north.10"]


def test_a_region_that_is_behind_is_passed_over(vault: PretendVault) -> None:
    def behind(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Region:
        refuse(context, grpc.StatusCode.UNAVAILABLE, "REGION_BEHIND")
        return Region()

    vault.answers["south", "", "GetKey"] = behind

    with vault.connect(region="south") as client:
        key = client.keys.get("payroll", min_position="1.north.10")
        with pytest.raises(errors.RegionBehind):
            client.at("south").keys.get("payroll", min_position="1.north.10")

    assert key.name == "keys/payroll"


def test_a_call_ends_with_its_deadline_when_nobody_answers(vault: PretendVault) -> None:
    with vault.connect() as client:
        for partition in vault.partitions():
            partition.stop()
        with pytest.raises(errors.Unavailable):
            client.sign("payroll", "ES256", digest=DIGEST, timeout=0.7)


def test_a_partition_that_hangs_costs_one_try_not_the_call(vault: PretendVault) -> None:
    released = threading.Event()

    def hang(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Message:
        released.wait(30)
        return STANDARD["Sign"](partition, request, context)

    for name in ("p0", "p1"):
        vault.answers["north", name, "Sign"] = hang

    try:
        with vault.connect(region="north") as client:
            assert sign(client) == "north/p2"
    finally:
        released.set()


def test_a_write_that_is_too_late_says_that_it_may_stand(vault: PretendVault) -> None:
    released = threading.Event()

    def hang(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Message:
        released.wait(30)
        return STANDARD["CreateKey"](partition, request, context)

    vault.answers["north", "", "CreateKey"] = hang

    try:
        with (
            vault.connect() as client,
            pytest.raises(DeadlineExceeded, match="may stand"),
        ):
            client.keys.create("payroll", timeout=2)
    finally:
        released.set()

    assert len(vault.asked("CreateKey")) == 1


def test_a_region_that_does_not_hold_everything_gets_no_general_calls(
    vault: PretendVault,
) -> None:
    vault.states["south"] = Region.PROVISIONING

    with vault.connect(region="south") as client:
        assert client.order == ("north",)
        assert client.at("south").sign("k", "ES256", digest=DIGEST).served.region == (
            "south"
        )


def test_a_region_that_was_removed_is_dialled_no_more(vault: PretendVault) -> None:
    with vault.connect() as client:
        vault.states["south"] = Region.PURGED
        client.refresh()

        assert client.order == ("north",)
        with pytest.raises(errors.Unavailable, match="south"):
            client.at("south").sign("k", "ES256", digest=DIGEST, timeout=0.3)


def test_waiting_for_a_position_is_one_long_try(vault: PretendVault) -> None:
    """A try cut short would make the region say that it is behind, too early."""
    left: list[float] = []

    def wait(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Message:
        left.append(context.time_remaining() or 0.0)
        return WaitForPositionResponse(position="1.north.10")

    vault.answers["south", "", "WaitForPosition"] = wait

    with vault.connect() as client:
        client.regions.wait("1.north.10", region="south", seconds=30)

    assert left[0] > 30


def _limits(
    vault: PretendVault, method: str, reason: str, *, retry_ms: int | None, times: int
) -> list[float]:
    """Have a method refused so often, by any partition; when it was asked."""
    asked: list[float] = []

    def answer(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Message:
        asked.append(time.monotonic())
        if len(asked) <= times:
            refuse(
                context,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                reason,
                retry_ms=retry_ms,
            )
        return STANDARD[method](partition, request, context)

    for region in vault.regions:
        vault.answers[region, "", method] = answer
    return asked


def test_who_is_told_when_to_come_back_comes_back_then_and_not_before(
    vault: PretendVault,
) -> None:
    asked = _limits(vault, "Sign", "RATE_LIMITED", retry_ms=80, times=2)

    with vault.connect() as client:
        served = sign(client)

    assert served
    assert len(asked) == 3
    assert all(later - earlier >= 0.08 for earlier, later in pairwise(asked))


def test_a_partition_that_is_full_sends_the_call_to_another(
    vault: PretendVault,
) -> None:
    asked = _limits(vault, "CreateKey", "OVERLOADED", retry_ms=100, times=1)

    with vault.connect() as client:
        made = client.keys.create("payroll")

    assert made.name == "keys/payroll"
    assert len(asked) == 2


@pytest.mark.parametrize("retry_ms", [None, 60_000])
def test_a_limit_that_outlasts_the_call_is_the_callers_to_hear_of(
    vault: PretendVault, retry_ms: int | None
) -> None:
    asked = _limits(vault, "Sign", "RATE_LIMITED", retry_ms=retry_ms, times=9)

    with vault.connect() as client, pytest.raises(errors.RateLimited):
        client.sign("payroll", "ES256", digest=DIGEST, timeout=5)

    assert len(asked) == 1


def test_calls_carry_the_trace_of_whoever_calls(vault: PretendVault) -> None:
    """Asked for each: the callers of one client have traces of their own."""
    parents = iter(("", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", ""))
    with vault.connect(traceparent=lambda: next(parents, "")) as client:
        before = len(vault.asked("Sign"))
        sign(client)
        sign(client)

    sent = [c.metadata.get("traceparent", "") for c in vault.asked("Sign")[before:]]
    assert sent == ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", ""]
