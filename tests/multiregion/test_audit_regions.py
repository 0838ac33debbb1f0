"""The audit trails of two running regions: signed, held by each other, and verified.

Steps of one test, because starting two regions costs more than all of it.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hsmvault.v1.crypto_service_pb2 import EncryptRequest
from hsmvault.v1.key_service_pb2 import GetKeyRequest
from hsmvault.v1.region_service_pb2 import ListAuditHeadsRequest
from tests.support.callers import USER, Callers, create, sign
from tests.support.canary import CANARY
from tests.support.regions import LiveRegion, LiveVault, running_vault
from tests.support.served import refusal

HEALED = ("waiting to restart", "starting", "serving")


def _verify(
    directory: Path, vault: LiveVault, *, against: str = "", archive: Path | None = None
) -> tuple[int, dict[str, Any]]:
    asked = ["--against", against] if against else []
    asked += ["--archive", str(archive)] if archive else []
    files = vault.admin
    profile = vault.directory / "admin.json"
    known = {"endpoints": [vault.north.endpoint], "ca": str(files.ca)}
    known |= {"certificate": str(files.certificate), "key": str(files.key)}
    profile.write_text(json.dumps(known))
    command = [sys.executable, "-m", "hsmvault.cli", "audit", "verify", str(directory)]
    options = ["--output", "json", "--profile", str(profile)]
    ended = subprocess.run(
        [*command, *asked, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.stdout, ended.stderr
    return ended.returncode, {one["process"]: one for one in json.loads(ended.stdout)}


def _records(region: LiveRegion, process: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for path in sorted(region.layout.audit.glob(f"{process}-*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def _events(region: LiveRegion, process: str) -> list[str]:
    return [record["event"] for record in _records(region, process)]


def _states(region: LiveRegion, process: str) -> list[str]:
    """What became of a process, as the supervisor recorded it."""
    return [
        record["facts"]["state"]
        for record in _records(region, "supervisor")
        if record.get("resource") == process
    ]


def _until_signed(vault: LiveVault, call: Callers) -> None:
    """Until south holds heads of all processes of both regions."""
    deadline = time.monotonic() + 60
    wanted = {
        (f"regions/{region}", process)
        for region in vault.regions
        for process in ("p0", "p1", "p2", "manager", "supervisor")
    }
    while True:
        answer = call("admin", region="south").regions.ListAuditHeads(
            ListAuditHeadsRequest(), timeout=20
        )
        if wanted <= {(head.region, head.process) for head in answer.heads}:
            return
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)


def _au_07_what_nobody_called_for_is_recorded(vault: LiveVault, name: str) -> None:
    south = vault.region("south")
    assert "replication.snapshot_installed" in _events(south, "manager")
    # Recorded once it is so: whoever looks may be earlier.
    south.wait_until(
        lambda: any(
            name in str(facts["resources"])
            for facts in _facts(south, "replication.applied")
        ),
        what="what was replicated to be recorded",
    )
    vault.north.wait_until(
        lambda: _facts(vault.north, "region.changed")[-1]["state"] == "SUCCEEDED",
        what="the adding of south to be recorded",
    )


def _facts(region: LiveRegion, event: str) -> list[dict[str, Any]]:
    """What a region's manager recorded of each such event."""
    records = _records(region, "manager")
    return [record["facts"] for record in records if record["event"] == event]


def test_au_07_trails_of_two_regions_are_signed_held_by_each_other_and_verified(
    tmp_path: Path,
) -> None:
    with running_vault(tmp_path, head_seconds=1) as vault:
        vault.grant("alice", USER)
        south = vault.extend("south")
        vault.add("south")
        call = Callers(vault)
        key = create(call(), "pay")
        sign(call(region="south"), key.name, at=key.position)
        # The run's own search finds it, should any process write it anywhere.
        create(call(), "box", kind="oct")
        call().crypto.Encrypt(
            EncryptRequest(
                name="keys/box", algorithm="A256GCM", plaintext=CANARY + b": regions"
            ),
            timeout=20,
        )
        refusal(
            lambda: call("nobody").keys.GetKey(GetKeyRequest(name=key.name), timeout=20)
        )

        _au_07_what_nobody_called_for_is_recorded(vault, f"/{key.name}")
        vault.north.kill_partition("p2")
        vault.north.wait_until(
            lambda: _states(vault.north, "p2")[-3:] == list(HEALED),
            what="the healing of p2 to be recorded",
        )

        _until_signed(vault, call)
        for region in (vault.north, south):
            code, found = _verify(region.layout.directory, vault, against="south")
            assert (code, found["p0"]["findings"]) == (0, [])
            assert found["manager"]["signed"] > 0
            assert found["p0"]["signed"] > 0

        # What is signed at the end vouches for all of it.
        assert vault.north.stop() == 0
        code, found = _verify(vault.north.layout.directory, vault)
        assert code == 0
        assert all(found[p]["signed"] == found[p]["last"] for p in ("p0", "p1", "p2"))

        _au_06_an_archive_is_verified_with_the_rest(vault, tmp_path / "away")

        # Who can write files and store puts both back to before: south knows better.
        _cut(vault.north)
        code, found = _verify(vault.north.layout.directory, vault)
        assert code == 1
        assert "its end was cut off" in found["p0"]["findings"][0]["what"]
        vault.close()


def _au_06_an_archive_is_verified_with_the_rest(vault: LiveVault, away: Path) -> None:
    away.mkdir()
    shutil.move(vault.north.layout.audit / "p1-000001.jsonl", away)

    assert _verify(vault.north.layout.directory, vault)[0] == 1
    code, found = _verify(vault.north.layout.directory, vault, archive=away)
    assert (code, found["p1"]["signed"]) == (0, found["p1"]["last"])


def _cut(region: LiveRegion) -> None:
    path = region.layout.audit / "p0-000001.jsonl"
    kept = path.read_bytes().splitlines(keepends=True)[:-1]
    shutil.copy(path, path.with_suffix(".kept"))
    path.write_bytes(b"".join(kept))
