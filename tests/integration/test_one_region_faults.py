"""One region that runs, used by our client, while its processes die under it."""

import itertools
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

import hsmvault
from hsmvault.client.connect import Vault
from hsmvault.model.errors import VaultError
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1 import key_service_pb2 as keys
from hsmvault.v1.resources_pb2 import Key
from tests.support.callers import (
    SECONDS,
    Callers,
    create,
    key,
    populated_vault,
    refusals,
    sign,
)
from tests.support.regions import LiveRegion

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(300)]

KEY = "keys/payroll"
CONFIGURATION_ERROR = 78


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with populated_vault(tmp_path_factory.mktemp("one")) as callers:
        create(callers(), "payroll")
        yield callers


@pytest.fixture
def north(call: Callers) -> LiveRegion:
    call.vault.north.wait_serving(manager=True)
    return call.vault.north


@pytest.fixture
def client(call: Callers, north: LiveRegion) -> Iterator[Vault]:
    alice = call.vault.caller("alice")
    with hsmvault.connect(
        north.endpoint,
        certificate=alice.certificate,
        key=alice.key,
        ca=alice.ca,
        timeout=SECONDS,
    ) as client:
        yield client


class Load:
    """Threads that use the vault all the time, and note how each call ended."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self.served: Counter[str] = Counter()
        self.ended = threading.Event()

    def run(self, work: Callable[[], str]) -> None:
        # The processes that are to come back need some of the processor's time too.
        while not self.ended.wait(0.005):
            try:
                self.served[work()] += 1
            except VaultError as error:
                self.failed.append(f"{error.reason}: {error}")

    def more_from(self, partition: str) -> Callable[[], bool]:
        """What tells that a partition has served since now."""
        before = self.served[partition]
        return lambda: self.served[partition] > before


@contextmanager
def loaded(client: Vault, prefix: str) -> Iterator[Load]:
    load = Load()
    numbers = itertools.count()

    def signs() -> str:
        return client.sign(KEY, "ES256", message=b"m").served.partition

    def creates() -> str:
        made = client.keys.create(f"{prefix}-{next(numbers)}")
        return f"created {made.state}"

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(load.run, work) for work in (signs, signs, signs, creates)]
        try:
            yield load
        finally:
            load.ended.set()
    for run in runs:
        run.result()


@pytest.mark.parametrize("fault", ["killed", "hanging"])
def test_no_call_of_our_client_fails_while_partitions_go_one_after_another(
    client: Vault, north: LiveRegion, fault: str
) -> None:
    gone = PARTITIONS if fault == "killed" else PARTITIONS[:1]
    with loaded(client, fault) as load:
        for partition in gone:
            north.wait_until(load.more_from(partition), what=f"calls at {partition}")
            if fault == "killed":
                former = north.kill_partition(partition)
            else:
                former = north.pause_partition(partition)
            restarted(north, partition, former)
            # It takes its share again.
            north.wait_until(load.more_from(partition), what=f"calls at {partition}")

    assert load.failed == []
    assert all(load.served[partition] for partition in PARTITIONS)
    assert load.served[f"created {Key.ACTIVE}"]


def restarted(north: LiveRegion, name: str, former: int) -> None:
    north.wait_until(
        lambda: (
            north.partition(name)["pid"] not in {None, former}
            and north.partition(name)["state"] == "serving"
        ),
        what=f"{name} to come back",
    )


def test_nothing_that_was_acknowledged_is_lost_when_the_whole_region_is_killed(
    call: Callers, north: LiveRegion
) -> None:
    gone = create(call(), "deleted-before")
    call().keys.DeleteKey(keys.DeleteKeyRequest(name=gone.name), timeout=SECONDS)
    ids = [f"acknowledged-{number}" for number in range(100)]
    places = itertools.cycle(call.everywhere())
    acknowledged: dict[str, Key] = {}
    unknown: list[str] = []
    killed = threading.Event()

    def make(key_id: str) -> None:
        if killed.is_set():
            unknown.append(key_id)
            return
        try:
            acknowledged[key_id] = create(next(places), key_id, request_id=key_id)
        except grpc.RpcError:
            unknown.append(key_id)

    with ThreadPoolExecutor(16) as pool:
        works = [pool.submit(make, key_id) for key_id in ids]
        north.wait_until(lambda: len(acknowledged) > 20, what="some answers")
        north.kill()
        killed.set()
        for work in works:
            work.result()
    north.serve(manager=True)

    assert len(acknowledged) + len(unknown) == len(ids)
    assert unknown, "it was killed too late to show anything"
    callers = [call.afresh(partition=p) for p in PARTITIONS]
    for told in refusals(callers, lambda caller: sign(caller, gone.name)):
        assert told[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_NOT_ENABLED")
    for number, (key_id, made) in enumerate(acknowledged.items()):
        caller = callers[number % len(callers)]
        assert key(caller, f"keys/{key_id}") == made
        assert sign(caller, made.name).name == made.current_version
    # What was not answered is there whole, or not at all; and may be asked for again.
    for key_id in unknown:
        caller = callers[0]
        try:
            found = key(caller, f"keys/{key_id}")
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
            found = None
        again = create(caller, key_id, request_id=key_id)
        assert found in (None, again)
        assert sign(caller, again.name).name == again.current_version


def test_a_wrong_pin_reaches_each_token_and_no_token_is_locked_by_it(
    call: Callers, north: LiveRegion
) -> None:
    """The tokens remember a wrong PIN; the region has not gone on trying it."""
    assert north.stop() == 0
    pins = {p: north.layout.pin(p).read_text() for p in PARTITIONS}
    for partition in PARTITIONS:
        assert "user PIN count low" not in flags(north, partition)
        north.layout.pin(partition).write_text("not-the-pin-1234")

    north.serve(wait=False)
    assert north.ended() == CONFIGURATION_ERROR

    # Three partitions and nobody a second time; the manager opens no token.
    assert north.said.count('"event": "process.started"') == 4
    for partition in PARTITIONS:
        assert "user PIN count low" in flags(north, partition)
        assert "user PIN locked" not in flags(north, partition)
        assert "It was tried once and is not tried again" in north.said
        north.layout.pin(partition).write_text(pins[partition])
    north.serve(manager=True)
    for partition in PARTITIONS:
        assert "user PIN count low" not in flags(north, partition)
        assert sign(call.afresh(partition=partition), KEY).signature


def flags(region: LiveRegion, partition: str) -> str:
    """What OpenSC's tool says of the token."""
    one = region.config.partitions[partition]
    told = subprocess.run(
        ["pkcs11-tool", "--module", str(one.module), "--list-token-slots"],
        env=dict(region.config.environment(partition)),
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout
