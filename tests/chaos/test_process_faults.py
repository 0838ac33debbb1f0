"""Processes that die or hang. The region goes on, and they come back by themselves."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1 import (
    crypto_service_pb2,
    crypto_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    resources_pb2,
)
from tests.support.cut import unsupervised
from tests.support.incoming import wrapped
from tests.support.regions import LiveRegion, LiveVault, alive, running_vault
from tests.support.served import refusal

pytestmark = pytest.mark.softhsm

KEY = "payroll"
GENERATING = 0.1
"""Seconds of processor time by which a process is known to generate an RSA key."""


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveVault]:
    with running_vault(tmp_path_factory.mktemp("faults")) as vault:
        vault.grant("alice", "Managed HSM Crypto User")
        create(vault, KEY, type="EC")
        yield vault


@pytest.fixture
def north(vault: LiveVault) -> LiveRegion:
    if vault.north.process is None:
        vault.north.serve()
    vault.north.wait_serving(manager=True)
    return vault.north


def create(vault: LiveVault, key_id: str, **spec: str | int) -> resources_pb2.Key:
    stub = key_service_pb2_grpc.KeyServiceStub(vault.channel(caller="alice"))
    key = resources_pb2.Key(spec=resources_pb2.KeySpec(**spec))  # type: ignore[arg-type]
    return stub.CreateKey(
        key_service_pb2.CreateKeyRequest(key_id=key_id, key=key), timeout=60
    )


def sign(vault: LiveVault, partition: str) -> crypto_service_pb2.SignResponse:
    stub = crypto_service_pb2_grpc.CryptoServiceStub(
        vault.channel(caller="alice", partition=partition)
    )
    return stub.Sign(
        crypto_service_pb2.SignRequest(
            name=f"keys/{KEY}", algorithm="ES256", digest=bytes(32)
        ),
        timeout=30,
        wait_for_ready=True,
    )


def wait_restarted(region: LiveRegion, name: str, former: int) -> None:
    region.wait_until(
        lambda: (
            region.partition(name)["state"] == "serving"
            and region.partition(name)["pid"] != former
        ),
        what=f"{name} to come back",
    )


def test_a_killed_partition_comes_back_and_its_siblings_serve_on(
    vault: LiveVault, north: LiveRegion
) -> None:
    restarts = north.partition("p0")["restarts"]
    former = north.kill_partition("p0")

    assert sign(vault, "p1").served.partition == "p1"
    assert sign(vault, "p2").served.partition == "p2"

    wait_restarted(north, "p0", former)
    assert sign(vault, "p0").served.partition == "p0"
    assert north.partition("p0")["restarts"] == restarts + 1


def test_a_partition_that_hangs_is_killed_and_comes_back(
    vault: LiveVault, north: LiveRegion
) -> None:
    """Stopped, it keeps its port open: the kernel would go on giving it calls."""
    former = north.pause_partition("p1")

    wait_restarted(north, "p1", former)

    assert not alive(former)
    assert sign(vault, "p1").served.partition == "p1"
    assert '"event": "process.killed"' in north.said


def test_without_the_pool_manager_keys_are_still_made_and_used(
    vault: LiveVault, north: LiveRegion
) -> None:
    former = north.kill_partition("manager")

    create(vault, "made-without-manager", type="oct")
    assert sign(vault, "p2").signature

    wait_restarted(north, "manager", former)


def test_with_one_partition_left_the_region_serves(
    vault: LiveVault, north: LiveRegion
) -> None:
    former = {name: north.pause_partition(name) for name in ("p0", "p2")}

    key = create_at(vault, "p1", "made-alone")
    assert sign(vault, "p1").signature
    assert key.state == resources_pb2.Key.State.ACTIVE

    for name, pid in former.items():
        wait_restarted(north, name, pid)


def create_at(vault: LiveVault, partition: str, key_id: str) -> resources_pb2.Key:
    stub = key_service_pb2_grpc.KeyServiceStub(
        vault.channel(caller="alice", partition=partition)
    )
    key = resources_pb2.Key(spec=resources_pb2.KeySpec(type="EC"))
    return stub.CreateKey(
        key_service_pb2.CreateKeyRequest(key_id=key_id, key=key), timeout=60
    )


def test_cr_11_a_wrapping_key_that_was_used_when_its_process_was_killed_is_spent(
    vault: LiveVault, north: LiveRegion
) -> None:
    """SIGKILL after the use became durable, and before there is a key.

    The siblings are stopped, so the partition waits for one to prove the key.
    """
    stub = key_service_pb2_grpc.KeyServiceStub(
        vault.channel(caller="alice", partition="p0")
    )
    by = stub.BeginImport(
        key_service_pb2.BeginImportRequest(key_id="brought"), timeout=60
    )
    half = load_pem_public_key(by.public_key.encode()).public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    ask = key_service_pb2.ImportKeyRequest(
        key_id="brought",
        key=resources_pb2.Key(spec=resources_pb2.KeySpec(type="oct", bits=256)),
        import_name=by.name,
        key_transfer_blob=wrapped(half, bytes(range(32))),
        request_id="import-1",
    )
    with (
        # Or a sibling would be started again, and prove the key.
        unsupervised(north),
        closing(sqlite3.connect(north.layout.store)) as store,
    ):
        paused = [north.pause_partition(name) for name in ("p1", "p2")]
        call = stub.ImportKey.future(ask, timeout=60)
        north.wait_until(lambda: _used(store, by.name), what="the use to be durable")
        former = north.kill_partition("p0")
        assert refusal(call.result)[0] is grpc.StatusCode.UNAVAILABLE
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
    wait_restarted(north, "p0", former)
    north.wait_serving()

    for partition in ("p0", "p1"):
        for request_id in ("import-1", "import-2"):
            ask.request_id = request_id
            again = key_service_pb2_grpc.KeyServiceStub(
                vault.channel(caller="alice", partition=partition)
            )
            told = refusal(partial(again.ImportKey, ask, timeout=60))
            assert told[1] == "IMPORT_SPENT"
            assert "was used at" in told[2]
    # The name is free: what was begun again goes its way.
    assert create_at(vault, "p1", "brought").name == "keys/brought"


def _used(store: sqlite3.Connection, name: str) -> bool:
    rows = store.execute("SELECT record FROM state WHERE resource = ?", (name,))
    return any(json.loads(record)["used_ms"] for (record,) in rows)


def test_a_call_in_flight_ends_well_when_the_region_is_stopped(
    vault: LiveVault, north: LiveRegion
) -> None:
    call = _generating(vault, north, "draining-0")
    while call.done():
        # Some are found at once: that shows nothing.
        call = _generating(vault, north, call.result().name[5:] + "0")

    code = north.stop()

    assert code == 0
    made = call.result()
    north.serve()
    stub = key_service_pb2_grpc.KeyServiceStub(vault.channel(caller="alice"))
    found = stub.GetKey(key_service_pb2.GetKeyRequest(name=made.name), timeout=30)
    assert found == made


def _generating(vault: LiveVault, north: LiveRegion, key_id: str) -> Any:
    """Ask for an RSA key; the call, once a partition is at it or it is answered."""
    pids = [int(north.partition(p)["pid"]) for p in PARTITIONS]
    stub = key_service_pb2_grpc.KeyServiceStub(vault.channel(caller="alice"))
    # Connected before: what works from now on, works for the call.
    stub.GetKey(key_service_pb2.GetKeyRequest(name=f"keys/{KEY}"), timeout=30)
    worked = {pid: _worked(pid) for pid in pids}
    key = resources_pb2.Key(spec=resources_pb2.KeySpec(type="RSA", bits=3072))
    call: Any = stub.CreateKey.future(
        key_service_pb2.CreateKeyRequest(key_id=key_id, key=key), timeout=60
    )
    north.wait_until(
        lambda: (
            call.done() or any(_worked(pid) > worked[pid] + GENERATING for pid in pids)
        ),
        what="the key to be generated",
    )
    return call


def _worked(pid: int) -> float:
    """The seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_no_process_outlives_its_supervisor(
    vault: LiveVault, north: LiveRegion
) -> None:
    """Not even one that hangs: it would keep the ports, and its login to the token."""
    pids = [int(p["pid"]) for p in north.processes()]
    assert len(pids) == 4
    assert all(map(alive, pids))
    north.pause_partition("p1")

    # Waits until all are gone.
    north.kill()

    assert not any(map(alive, pids))
    # Nothing was left that would keep it from starting again.
    north.serve()
    assert sign(vault, "p0").signature


def test_sigint_to_the_whole_group_drains_like_sigterm(
    vault: LiveVault, north: LiveRegion
) -> None:
    """Ctrl-C in a terminal reaches every process; only the supervisor decides."""
    for process in north.processes():
        os.kill(int(process["pid"]), signal.SIGINT)

    assert sign(vault, "p0").signature
    assert north.process is not None
    north.process.send_signal(signal.SIGINT)
    code = north.ended()

    assert code == 0
    assert not north.layout.status.exists()
