"""Which region a client prefers: the one it was told, then the nearest."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from hsmvault.client.balancing import Pool
from hsmvault.client.credentials import Credentials
from hsmvault.client.topology import RegionMap, VaultMap
from tests.support.pretend_vault import (
    STANDARD,
    Answer,
    Called,
    PretendPartition,
    PretendVault,
    pretend_vault,
    refuse,
)


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[PretendVault]:
    with pretend_vault(tmp_path) as pretended:
        yield pretended


@pytest.mark.parametrize(
    ("wanted", "distances", "order"),
    (
        ("", {"north": 0.050, "east": 0.002, "south": 0.020}, "east south north"),
        ("", {"north": 0.002, "east": 0.001, "south": 0.001}, "north east south"),
        ("", {"north": 0.0151, "east": 0.0149, "south": 0.05}, "north east south"),
        ("", {"north": 0.050, "south": 0.020}, "south east north"),
        ("", {"north": 0.050}, "north east south"),
        ("", {"south": 0.050}, "north east south"),
        ("north", {"north": 0.050, "east": 0.002}, "north east south"),
    ),
    ids=(
        "the nearer",
        "equally near: the first to answer",
        "the same on both sides of a round number",
        "nothing known of one",
        "nothing known but of the first",
        "nothing known of the first",
        "the one asked for",
    ),
)
def test_the_nearest_region_is_preferred_unless_one_is_named(
    wanted: str, distances: dict[str, float], order: str
) -> None:
    regions = tuple(
        RegionMap(name, name == "north", general=True, address="", places=())
        for name in ("north", "south", "east")
    )
    with Pool(Credentials(b"", b"", b""), [], region=wanted) as pool:
        pool.learn(VaultMap("f" * 32, regions, "north", None))

        pool.measured(distances)

        assert pool.order == tuple(order.split())


def slow(vault: PretendVault, region: str, seconds: Sequence[float]) -> None:
    """Have a region's answers on where everybody is take so long, the last for ever."""
    left = itertools.chain(seconds[:-1], itertools.repeat(seconds[-1]))

    def answer(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Message:
        time.sleep(next(left))
        return STANDARD["GetTopology"](partition, request, context)

    vault.answers[region, "", "GetTopology"] = answer


def test_one_slow_round_trip_moves_no_calls_to_another_region(
    vault: PretendVault,
) -> None:
    """A machine that was busy for a moment is not a longer way."""
    with vault.connect() as client:
        # Where everybody is takes one answer of north, then the measurements.
        slow(vault, "north", [0.0, 0.6, 0.0])
        slow(vault, "south", [0.2])
        vault.answers["north", "", "Sign"] = _lost_once()
        before = len(asked_of(vault, "south"))
        client.sign("payroll", "ES256", digest=bytes(32))
        while len(asked_of(vault, "south")) < before + 2:
            time.sleep(0.01)

    assert client.order == ("north", "south")


def test_a_region_that_is_farther_each_time_gives_way_to_the_nearer(
    vault: PretendVault,
) -> None:
    with vault.connect() as client:
        slow(vault, "north", [0.2])
        vault.answers["north", "", "Sign"] = _lost_once()
        client.sign("payroll", "ES256", digest=bytes(32))
        while client.order[0] != "south":
            time.sleep(0.01)

    assert client.order == ("south", "north")


def asked_of(vault: PretendVault, region: str) -> list[Called]:
    return [c for c in vault.asked("GetTopology") if c.region == region]


def _lost_once() -> Answer:
    answered = threading.Event()

    def answer(
        partition: PretendPartition, request: bytes, context: grpc.ServicerContext
    ) -> Message:
        if not answered.is_set():
            answered.set()
            refuse(context, grpc.StatusCode.UNAVAILABLE, "PARTITION_LOST")
        return STANDARD["Sign"](partition, request, context)

    return answer
