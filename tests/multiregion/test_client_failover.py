"""The client against two real regions, whose processes are killed and stopped."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import hsmvault
from hsmvault.client.errors import DeadlineExceeded
from hsmvault.model import errors
from hsmvault.model.log import Position
from hsmvault.regions.layout import PARTITIONS
from tests.support.callers import create, sign
from tests.support.elsewhere import ELSEWHERE, from_elsewhere
from tests.support.regions import LiveRegion, LiveVault, running_vault
from tests.support.served import Caller, refusal

pytestmark = pytest.mark.softhsm

DIGEST = bytes(32)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    with running_vault(tmp_path_factory.mktemp("vault")) as vault:
        vault.grant("alice", "Managed HSM Crypto User")
        vault.extend("south")
        vault.add("south")
        with connected(vault) as client:
            key = client.keys.create("payroll")
            client.regions.wait(key.position, region="south", seconds=30)
        yield vault


@contextmanager
def connected(
    vault: LiveVault, region: str = "north", caller: str = "alice"
) -> Iterator["hsmvault.Vault"]:
    files = vault.caller(caller)
    with hsmvault.connect(
        [vault.north.endpoint, vault.region("south").endpoint],
        certificate=files.certificate,
        key=files.key,
        ca=files.ca,
        region=region,
    ) as client:
        yield client


class Load:
    """Signs in a loop; who answered, and what failed."""

    def __init__(self, client: "hsmvault.Vault") -> None:
        self.client = client
        self.served: list[str] = []
        self.failed: list[str] = []
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.005):
            try:
                served = self.client.sign("payroll", "ES256", digest=DIGEST).served
            except errors.VaultError as error:
                self.failed.append(f"{error.reason}: {error}")
            else:
                self.served.append(f"{served.region}/{served.partition}")

    def until(self, server: str, times: int = 20) -> None:
        """Wait until `server` has answered some more times. pytest limits the wait."""
        start = len(self.served)
        while (
            sum(s.startswith(server) for s in self.served[start:]) < times
        ) and not self.done.wait(0.02):
            pass


@contextmanager
def load(client: "hsmvault.Vault") -> Iterator[Load]:
    running = Load(client)
    threads = [threading.Thread(target=running.run) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        running.done.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("how", (signal.SIGKILL, signal.SIGSTOP))
def test_a_partition_that_dies_or_hangs_fails_no_call(
    live: LiveVault, how: signal.Signals
) -> None:
    """Stopped, it keeps its connections: only the client's pings find out."""
    with connected(live) as client, load(client) as running:
        running.until("north/p1")
        pid = int(live.north.partition("p1")["pid"])

        os.kill(pid, how)

        live.north.wait_until(
            lambda: live.north.partition("p1")["pid"] not in {pid, None}, what="p1 anew"
        )
        live.north.wait_serving()
        running.until("north/p1")

    assert not running.failed


def test_a_region_that_is_killed_fails_no_call_and_is_taken_back(
    live: LiveVault,
) -> None:
    with connected(live) as client, load(client) as running:
        running.until("north")

        kill_all(live.north)
        running.until("south")
        with pytest.raises(errors.PrimaryUnavailable, match="manual"):
            client.keys.create("refused")
        live.north.layout.status.unlink()  # what it says is of the killed ones
        live.north.serve(manager=True)

        running.until("north")
        key = client.keys.create("afterwards")
        client.regions.wait(key.position, region="south", seconds=30)

    assert not running.failed


def kill_all(region: LiveRegion) -> None:
    pids = [int(p["pid"]) for p in region.processes() if p["pid"]]
    region.kill()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_session_in_the_extended_region_reads_what_it_wrote(live: LiveVault) -> None:
    with connected(live, region="south") as client:
        session = client.session()

        for number in range(5):
            session.keys.create(f"own-{number}")
            key = session.keys.get(f"own-{number}", region="south")
            assert session.sign(key.name, "ES256", digest=DIGEST).served.region == (
                "south"
            )


def test_a_write_that_only_the_primary_takes_is_redirected_there(
    live: LiveVault,
) -> None:
    with connected(live, region="south", caller="admin") as client:
        made = client.roles.assign("CN=carol", "Crypto User", scope="/keys/payroll")
        client.regions.wait(made.position, region="south", seconds=30)

        assert made.name in {a.name for a in client.roles.list(principal="CN=carol")}


def test_a_durable_write_is_in_every_region_when_it_answers(live: LiveVault) -> None:
    with connected(live) as client:
        key = client.keys.create("durable", durability="ALL_REGIONS")

        assert client.at("south").keys.get("durable").position == key.position


def test_watching_goes_on_elsewhere_and_tells_each_change_once(live: LiveVault) -> None:
    with connected(live) as client:
        begun = client.keys.create("watched-0").position
        changes = client.watch(position=begun, kinds=["key"])
        client.keys.create("watched-1")
        first = next(changes).name

        for name in PARTITIONS:
            live.north.kill_partition(name)
        client.keys.create("watched-2")
        second = next(changes).name
        live.north.wait_serving()
        client.keys.create("watched-3")
        third = next(changes)
        changes.close()

    assert [first, second, third.name] == [f"keys/watched-{n}" for n in (1, 2, 3)]
    assert changes.position == third.position


def test_settings_are_in_force_in_the_other_region_once_it_has_them(
    live: LiveVault,
) -> None:
    networks = ["127.0.0.0/8", "::1/128"]
    with connected(live, caller="admin") as admin, connected(live) as client:
        oct_key = client.keys.create(
            "cbc", "oct", bits=128, operations=["encrypt", "decrypt"]
        )
        south = client.at("south")
        encrypt = partial(
            south.encrypt, "cbc", "A128CBCPAD", b"x", min_position=oct_key.position
        )
        with pytest.raises(errors.VaultError, match="legacy"):
            encrypt()

        made = admin.settings.update(
            legacy_algorithms=["A128CBCPAD"], allowed_networks=networks, rate_limit=1
        )
        encrypt(min_position=made.position)

        def often() -> None:
            for _ in range(200):
                # With no time to come back later, the limit is the caller's to hear.
                with suppress(DeadlineExceeded):
                    south.encrypt("cbc", "A128CBCPAD", b"x", timeout=0.5)

        with pytest.raises(errors.RateLimited):
            often()
        held = admin.at("south").settings.get(min_position=made.position, timeout=60)
        back = admin.settings.update(
            legacy_algorithms=[], allowed_networks=[], rate_limit=0, timeout=60
        )
        with pytest.raises(errors.VaultError, match="legacy"):
            encrypt(min_position=back.position)

    assert held == made
    assert list(held.allowed_networks) == networks


def test_callers_from_outside_the_networks_are_refused_in_the_other_region_too(
    live: LiveVault,
) -> None:
    """Also where they are connected already, and where they come with min-position."""
    south = live.region("south").endpoint
    with (
        connected(live, caller="admin") as admin,
        from_elsewhere(south) as relayed,
        grpc.secure_channel(relayed, live.credentials("alice")) as channel,
    ):
        stranger = Caller(channel)
        inside = Caller(live.channel("south", caller="alice"))
        assert sign(stranger, "keys/payroll").signature

        made = admin.settings.update(allowed_networks=["127.0.0.1/32"])
        assert sign(inside, "keys/payroll", at=made.position).signature
        refused = [
            refusal(lambda: sign(stranger, "keys/payroll")),
            refusal(lambda: sign(stranger, "keys/payroll", at=made.position)),
            refusal(lambda: create(stranger, "from-elsewhere")),
        ]
        # Nor may they wait at the door for a position that opens it.
        ahead = Position.parse(made.position)
        ahead = replace(ahead, index=ahead.index + 1)
        waiting = refusal(lambda: sign(stranger, "keys/payroll", at=str(ahead)))
        health = health_pb2_grpc.HealthStub(channel)
        answered = health.Check(health_pb2.HealthCheckRequest(), timeout=60).status
        made_inside = create(inside, "from-here").name

        back = admin.settings.update(allowed_networks=[])
        admin.regions.wait(back.position, region="south", seconds=30)
        assert sign(stranger, "keys/payroll").signature

    for code, reason, told in (*refused, waiting):
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert reason == "NETWORK_NOT_ALLOWED"
        assert ELSEWHERE in told
    assert answered == health_pb2.HealthCheckResponse.SERVING
    assert made_inside == "keys/from-here"
