"""AU-01: the disk of a region's audit trails is read-only, or full, and comes back.

A real one, mounted for the region's processes alone. Steps of one test, because
starting a region costs more than all of it.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hsmvault.audit.trail import RESERVE_BYTES
from hsmvault.regions.layout import PARTITIONS
from tests.support.callers import USER, Callers, create, key, sign, topology
from tests.support.mounted import AuditDisk, require_mounts
from tests.support.regions import founded_vault
from tests.support.served import Caller, refusal

pytestmark = pytest.mark.softhsm

REFUSED = (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
ALL = {*PARTITIONS, "manager", "supervisor"}
SERVING = health_pb2.HealthCheckResponse.SERVING


def _records(disk: AuditDisk, event: str) -> dict[str, dict[str, Any]]:
    """The last record of an event, by the process whose trail has it."""
    lines = [
        json.loads(line)
        for path in sorted(disk.path.glob("*.jsonl"))
        for line in path.read_text(encoding="ascii").splitlines()
    ]
    return {one["process"]: one for one in lines if one["event"] == event}


def _healthy(caller: Caller) -> bool:
    stub = health_pb2_grpc.HealthStub(caller.channel)
    return bool(
        stub.Check(health_pb2.HealthCheckRequest(), timeout=30).status == SERVING
    )


def _require_refused(ask: Callable[[], object], why: str) -> None:
    code, reason, told = refusal(ask)
    assert (code, reason) == REFUSED
    assert why in told


def test_au_01_a_region_serves_nothing_unrecorded_on_a_disk_that_is_none(
    tmp_path: Path,
) -> None:
    require_mounts()
    with founded_vault(tmp_path) as vault:
        north, call = vault.north, Callers(vault)
        disk = AuditDisk(north, "size=4m,ro")
        north.serve(wait=False, under=disk.under)
        north.wait_up()

        for caller in call.everywhere("admin"):
            _require_refused(partial(topology, caller), "Read-only file system")
            assert not _healthy(caller)
        pids = [p["pid"] for p in north.processes()]

        disk.remount("rw")
        north.wait_until(
            lambda: _records(disk, "audit.resumed").keys() == ALL, what="all"
        )
        north.wait_serving(manager=True)
        for record in _records(disk, "audit.resumed").values():
            assert record["facts"]["problem"] == "Read-only file system"
        vault.grant("alice", USER)
        name = create(call(), "payroll").name

        # Nearly full: what changes nothing has room.
        disk.fill(leaving=RESERVE_BYTES // 2)
        for caller in call.everywhere():
            _require_refused(partial(create, caller, "more"), "bytes are free")
            assert sign(caller, name).signature

        # Full: the last page of a trail may take some records yet.
        disk.fill()
        for caller in call.everywhere():
            while not (refused := _refused(caller, name)):
                pass
            assert refused[:2] == REFUSED
            assert "No space left on device" in refused[2]
        north.wait_until(
            lambda: not any(map(_healthy, call.everywhere())), what="nobody to serve"
        )

        # Room again: it goes on by itself, and says how many it refused.
        disk.clear()
        north.wait_serving()
        everyone = call.everywhere()
        north.wait_until(
            lambda: not any(_refused(caller, name) for caller in everyone),
            what="all to resume",
        )
        resumed = _records(disk, "audit.resumed")
        for facts in (resumed[partition]["facts"] for partition in PARTITIONS):
            assert facts["problem"] == "No space left on device"
            assert facts["refused"] > 0
        assert refusal(lambda: key(call(), "keys/more"))[1] == "NOT_FOUND"
        assert create(call(), "more").name == "keys/more"
        assert [p["pid"] for p in north.processes()] == pids
        verify = (sys.executable, "-m", "hsmvault.cli", "audit", "verify")
        disk.run(*verify, str(north.layout.directory))


def _refused(caller: Caller, name: str) -> tuple[Any, ...]:
    """How signing is refused; () if it is not."""
    try:
        sign(caller, name)
    except grpc.RpcError as error:
        failed = error

        def again() -> None:
            raise failed

        return refusal(again)
    return ()
