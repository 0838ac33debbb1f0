"""Who comes in at all: allowed networks, and rates per principal and address."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from hsmvault.api.account import Account
from hsmvault.api.admission import STRANGERS_RATE, Door
from hsmvault.api.rates import SECOND_NS, Rates
from hsmvault.model.access import CRYPTO_USER
from hsmvault.v1.crypto_service_pb2 import BatchItem, BatchRequest, SignRequest
from hsmvault.v1.region_service_pb2 import GetTopologyRequest
from tests.support.certified import nameless
from tests.support.served import Served, grant, make_key, refusal, served, signed
from tests.support.settings import get, update
from tests.unit.test_rates import Clock

DENIED = grpc.StatusCode.PERMISSION_DENIED
LIMITED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
HERE = ["127.0.0.0/8", "::1/128"]
ELSEWHERE = ["10.0.0.0/8", "fd00::/8"]


@contextmanager
def limited(
    directory: Path, told: list[Account] | None = None
) -> Iterator[tuple[Served, Clock]]:
    """A region whose rates go by a clock of the test's."""
    clock = Clock()
    door = Door(Rates(clock), Rates(clock))
    observers = () if told is None else (told.append,)
    with served(directory, door=door, observers=observers) as one:
        yield one, clock


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


def _topology(one: Served, who: str = "uma") -> Any:
    return getattr(one, who).regions.GetTopology(GetTopologyRequest())


def _details(error: Any) -> tuple[RetryInfo, QuotaFailure]:
    retry, quota = RetryInfo(), QuotaFailure()
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in Status.FromString(value).details:
                detail.Unpack(retry)
                detail.Unpack(quota)
    return retry, quota


# --- networks ---------------------------------------------------------------------


def test_callers_from_outside_the_allowed_networks_are_refused_at_once(
    north: Served,
) -> None:
    make_key(north, "a")
    update(north, allowed_networks=HERE)
    inside = signed(north.uma, "keys/a")
    update(north, allowed_networks=ELSEWHERE, allow_lock_out=True)

    code, reason, message = refusal(lambda: signed(north.uma, "keys/a"))

    assert inside.signature
    assert (code, reason) == (DENIED, "NETWORK_NOT_ALLOWED")
    assert "hsmvault vault set --allowed-network" in message
    assert "10.0.0.0" not in message


def test_no_role_and_no_rpc_is_exempt_from_the_networks(north: Served) -> None:
    update(north, allowed_networks=ELSEWHERE, allow_lock_out=True)
    channel = north.ada.channel
    missing: Any = channel.unary_unary("/hsmvault.v1.KeyService/Nothing")

    for ask in (
        lambda: get(north),
        lambda: _topology(north),
        lambda: missing(b""),
        lambda: north.eve.crypto.Batch(BatchRequest(items=[BatchItem()])),
    ):
        assert refusal(ask)[:2] == (DENIED, "NETWORK_NOT_ALLOWED")


def test_from_outside_nobody_learns_what_is_wrong_with_their_identity(
    north: Served,
) -> None:
    """A stolen certificate tells its thief nothing, not even that it has ended."""
    stranger = north.connect(nameless(north.ca))
    before = refusal(lambda: stranger.regions.GetTopology(GetTopologyRequest()))
    update(north, allowed_networks=ELSEWHERE, allow_lock_out=True)

    after = refusal(lambda: stranger.regions.GetTopology(GetTopologyRequest()))

    assert before[0] is grpc.StatusCode.UNAUTHENTICATED
    assert after[:2] == (DENIED, "NETWORK_NOT_ALLOWED")


def test_health_answers_from_any_network_and_reflection_does_not(
    north: Served,
) -> None:
    health = health_pb2_grpc.HealthStub(north.uma.channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(north.uma.channel)
    services = reflection_pb2.ServerReflectionRequest(list_services="")

    def reflected() -> list[Any]:
        return list(reflection.ServerReflectionInfo(iter([services])))

    known = reflected()
    update(north, allowed_networks=ELSEWHERE, allow_lock_out=True)

    assert known
    assert health.Check(health_pb2.HealthCheckRequest()).status == 1
    assert refusal(reflected)[:2] == (DENIED, "NETWORK_NOT_ALLOWED")


# --- rates ------------------------------------------------------------------------


def test_a_principal_beyond_its_rate_is_told_when_to_come_back(tmp_path: Path) -> None:
    with limited(tmp_path) as (north, clock):
        update(north, rate_limit=5)
        for _ in range(5):
            _topology(north)

        with pytest.raises(grpc.RpcError) as caught:
            _topology(north)
        retry, quota = _details(caught.value)
        other = _topology(north, "tom")
        clock.now += retry.retry_delay.ToNanoseconds()

        assert refusal_of(caught.value) == LIMITED
        assert retry.retry_delay.ToMilliseconds() == 200
        assert quota.violations[0].subject == "CN=uma"
        assert other.vault_id
        assert _topology(north).vault_id
        assert refusal(lambda: _topology(north))[:2] == LIMITED


def refusal_of(error: Any) -> tuple[grpc.StatusCode, str]:
    def again() -> None:
        raise error

    return refusal(again)[:2]


def test_a_batch_counts_by_its_items(tmp_path: Path) -> None:
    with limited(tmp_path) as (north, clock):
        make_key(north, "a")
        update(north, rate_limit=10)
        item = BatchItem(
            sign=SignRequest(name="keys/a", algorithm="ES256", digest=bytes(32))
        )
        clock.now += 10 * SECOND_NS

        done = north.uma.crypto.Batch(BatchRequest(items=[item] * 50))
        clock.now += 3 * SECOND_NS
        early = refusal(lambda: signed(north.uma, "keys/a"))
        clock.now += 2 * SECOND_NS

        assert [bool(r.sign.signature) for r in done.results] == [True] * 50
        assert early[:2] == LIMITED
        assert signed(north.uma, "keys/a").signature


def test_what_is_refused_counts_and_is_told_too(tmp_path: Path) -> None:
    """Trying to get in costs as much as getting in; and somebody is told."""
    told: list[Account] = []
    with limited(tmp_path, told) as (north, _clock):
        make_key(north, "a")
        update(north, rate_limit=3)
        missing: Any = north.eve.channel.unary_unary("/hsmvault.v1.KeyService/Nothing")

        denied = [refusal(lambda: signed(north.eve, "keys/a"))[0] for _ in range(2)]
        unknown = refusal(lambda: missing(b""))[0]
        beyond = [
            refusal(lambda: signed(north.eve, "keys/a"))[:2],
            refusal(lambda: missing(b""))[:2],
        ]

        assert denied == [DENIED] * 2
        assert unknown is grpc.StatusCode.UNIMPLEMENTED
        assert beyond == [LIMITED] * 2
        assert [a.reason for a in told if a.principal == "CN=eve"][-1] == "RATE_LIMITED"


def test_without_a_limit_nobody_is_counted(tmp_path: Path) -> None:
    with limited(tmp_path) as (north, _clock):
        for _ in range(300):
            _topology(north)
        update(north, rate_limit=1)
        _topology(north)

        assert refusal(lambda: _topology(north))[:2] == LIMITED


def test_who_holds_no_role_gets_no_more_than_a_stranger(tmp_path: Path) -> None:
    """The attacker has a certificate alone, and wants refusals to fill the disk."""
    with limited(tmp_path) as (north, clock):
        make_key(north, "a")
        sign = BatchItem(sign=SignRequest(name="keys/a"))

        north.eve.crypto.Batch(BatchRequest(items=[sign] * STRANGERS_RATE))
        beyond = refusal(lambda: signed(north.eve, "keys/a"))
        clock.now += SECOND_NS
        again = refusal(lambda: signed(north.eve, "keys/a"))[0]

        assert beyond[:2] == LIMITED
        assert "hsmvault role assign" in beyond[2]
        assert again is DENIED


def test_who_gets_a_role_is_limited_like_others(tmp_path: Path) -> None:
    with limited(tmp_path) as (north, _clock):
        make_key(north, "a")
        refused = {
            refusal(lambda: signed(north.eve, "keys/a"))[0]
            for _ in range(STRANGERS_RATE)
        }

        grant(north, "eve", CRYPTO_USER)

        assert refused == {DENIED}
        assert signed(north.eve, "keys/a").signature


def test_strangers_are_limited_by_their_address(tmp_path: Path) -> None:
    """Whoever shows no identity cannot keep the vault busy by showing none again."""
    with limited(tmp_path) as (north, clock):
        stranger = north.connect(nameless(north.ca))

        def ask() -> Any:
            return stranger.regions.GetTopology(GetTopologyRequest())

        first = {refusal(ask)[1] for _ in range(STRANGERS_RATE)}
        beyond = refusal(ask)[:2]
        known = _topology(north)
        clock.now += SECOND_NS

        assert first == {"UNAUTHENTICATED"}
        assert beyond == LIMITED
        assert known.vault_id
        assert refusal(ask)[1] == "UNAUTHENTICATED"
