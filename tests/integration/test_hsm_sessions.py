"""Leases and open keys, with many threads on real sessions."""

import random
import threading
from collections.abc import Callable

import pytest

from hsmvault.hsm.partition import Partition
from hsmvault.hsm.session import Session, Sessions
from hsmvault.hsm.templates import Purpose
from hsmvault.model.algorithms import Algorithm, KeySpec
from hsmvault.model.errors import ConfigurationError, NoFreeSession
from hsmvault.model.material import Material
from tests.support.apart import apart
from tests.support.partitions import VAULT, Loaded, config, fresh
from tests.support.softhsm import RegionTokens, Token

pytestmark = pytest.mark.softhsm

P256, AES = KeySpec.of("EC"), KeySpec.of("oct")
DIGEST = bytes(32)


def together(count: int, work: Callable[[int], None]) -> list[BaseException]:
    """Run `work` in as many threads; returns what they raised."""
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001  # the test looks at it
            raised.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def use_from_many_threads(token: Token) -> int:
    """Everything at once from 8 threads over 4 sessions; returns how often."""
    partition = Partition.open(
        config(token, "north", "p0", open_keys=6), vault_id=VAULT
    )
    keys = [fresh(partition, P256) for _ in range(6)]
    secret = fresh(partition, AES)
    done: list[int] = []

    def work(number: int) -> None:
        choose = random.Random(number)
        for turn in range(150):
            material = choose.choice(keys)
            signature = partition.sign(material, Algorithm.ES256, DIGEST)
            assert partition.verify(material, Algorithm.ES256, DIGEST, signature)
            text = bytes([number, turn % 256])
            sealed = partition.encrypt(secret, Algorithm.A256GCM, text, b"")
            opened = partition.decrypt(secret, Algorithm.A256GCM, sealed, b"")
            assert opened == text
            wrapped = partition.wrap(secret, Algorithm.A256KW, text * 8)
            assert partition.unwrap(secret, Algorithm.A256KW, wrapped) == text * 8
            assert partition.mac([text]) == partition.mac([text])
            if turn % 25 == number:
                fresh(partition, P256)
                partition.forget([material.version])
            assert partition.open_keys <= 6 + 4
            done.append(turn)

    raised = together(8, work)
    if raised:
        raise raised[0]
    return len(done)


def test_many_threads_may_use_one_module(north: RegionTokens) -> None:
    """Without CKF_OS_LOCKING_OK this ends in a crash within a second, every time."""
    token = north.tokens["p0"]

    assert apart(token.environment, use_from_many_threads)(token) == 8 * 150


def test_no_more_keys_are_open_than_configured(loaded: Loaded) -> None:
    partition = loaded.open("north", "p0", sessions=3, open_keys=5)
    keys = [fresh(partition, P256) for _ in range(12)]

    for material in keys * 2:
        partition.sign(material, Algorithm.ES256, DIGEST)
        assert partition.open_keys <= 5

    assert partition.open_keys == 5


def test_the_key_unused_for_longest_is_closed_first(loaded: Loaded) -> None:
    partition = loaded.open("north", "p0", sessions=1, open_keys=2)
    one, two, three = (fresh(partition, P256) for _ in range(3))

    for material in (one, two, one, three):
        partition.sign(material, Algorithm.ES256, DIGEST)

    assert is_open(partition, one)
    assert not is_open(partition, two)
    assert is_open(partition, three)


def is_open(partition: Partition, material: Material) -> bool:
    return any(
        session.opened.get(material.version, Purpose.SIGN) is not None
        for session in partition._core.sessions._all
    )


def test_an_idle_session_gives_up_its_keys_for_a_busy_one(loaded: Loaded) -> None:
    """One session must not sit on all open keys while another has to close its own."""
    partition = loaded.open("north", "p0", sessions=2, open_keys=4)
    sessions = partition._core.sessions
    old, new = ([fresh(partition, P256) for _ in range(4)] for _ in range(2))
    for material in old:
        partition.sign(material, Algorithm.ES256, DIGEST)
    last = sessions.take()  # it has the keys …
    other = sessions.take()
    sessions.give(last)  # … and now lies below the other one
    sessions.give(other)

    for material in new:
        partition.sign(material, Algorithm.ES256, DIGEST)

    assert all(is_open(partition, material) for material in new)
    assert partition.open_keys == 4


def test_forgetting_reaches_sessions_at_rest_and_in_use(loaded: Loaded) -> None:
    partition = loaded.open("north", "p0", sessions=2)
    sessions = partition._core.sessions
    material = fresh(partition, P256)
    partition.sign(material, Algorithm.ES256, DIGEST)
    busy = sessions.take()
    partition.sign(material, Algorithm.ES256, DIGEST)
    assert partition.open_keys == 2

    partition.forget([material.version, "f" * 32])

    assert partition.open_keys == 1, "the one in use is not destroyed under its user"
    sessions.give(busy)
    assert partition.open_keys == 0


def test_the_session_given_back_last_is_leased_first(loaded: Loaded) -> None:
    sessions = loaded.open("north", "p0", sessions=3)._core.sessions
    one, two = sessions.take(), sessions.take()
    sessions.give(two)
    sessions.give(one)

    assert sessions.take() is one


def test_whoever_waits_too_long_for_a_session_is_told(loaded: Loaded) -> None:
    raw = loaded.open("north", "p0", sessions=1)._core.fresh()
    sessions = Sessions([Session(raw)], open_keys=1, patience=0.05)
    leased = sessions.take()

    with pytest.raises(NoFreeSession, match="1 sessions"):
        sessions.take()

    sessions.give(leased)
    assert sessions.take() is leased


def test_nobody_who_waits_is_overlooked(loaded: Loaded) -> None:
    raw = loaded.open("north", "p0", sessions=1)._core.fresh()
    sessions = Sessions([Session(raw)], open_keys=1, patience=60)
    inside: list[int] = []

    def work(_: int) -> None:
        for _ in range(2000):
            session = sessions.take()
            inside.append(1)
            assert len(inside) == 1, "a lease is exclusive"
            inside.pop()
            sessions.give(session)

    assert together(8, work) == []


def test_the_oldest_call_in_flight_is_known(loaded: Loaded) -> None:
    partition = loaded.open("north", "p0", sessions=2)
    sessions = partition._core.sessions
    assert partition.oldest_call() == 0.0
    assert not partition.overdue()

    session = sessions.take()
    assert partition.oldest_call() > 0.0
    assert not partition.overdue()
    session.since -= 11

    assert partition.oldest_call() > 11
    assert partition.overdue()
    session.limit = 60
    assert not partition.overdue()
    sessions.give(session)
    assert partition.oldest_call() == 0.0


@pytest.mark.parametrize(
    "limits", [{"sessions": 0}, {"sessions": 65}, {"open_keys": 0}]
)
def test_limits_out_of_range_are_refused(
    loaded: Loaded, limits: dict[str, int]
) -> None:
    with pytest.raises(ConfigurationError, match="choose"):
        loaded.open("north", "p0", **limits)
