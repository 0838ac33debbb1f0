"""Whole real regions: SoftHSM tokens, processes, mTLS, in a directory of the test's.

Processes that are started here end here, whatever the test does.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from prometheus_client.parser import text_string_to_metric_families

from hsmvault import config
from hsmvault.config import RegionConfig
from hsmvault.model.access import BUILT_IN
from hsmvault.model.orders import removal_statement
from hsmvault.regions.birth import RegionPlan
from hsmvault.regions.card import Card
from hsmvault.regions.certificates import ClientFiles, add_caller
from hsmvault.regions.layout import PARTITIONS, Layout
from hsmvault.server.founding import found_vault, init_region
from hsmvault.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    region_service_pb2,
    region_service_pb2_grpc,
    resources_pb2,
)
from tests.support.ports import free_port, region_ports

START_SECONDS: Final = 60.0
"""A busy machine starts five interpreters."""
STOP_SECONDS: Final = 30.0
FREE: Final = "free"
"""As `metrics` under [telemetry]: on some port of each region's own."""
HEAD_SECONDS: Final = 3600
"""How often audit heads are appended to the log. A test that finds no entry in it that
should not be there must not find one of these."""


@dataclass
class LiveRegion:
    """A region's directory, and the supervisor over it while it is served."""

    layout: Layout
    process: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> RegionConfig:
        return config.load(self.layout.directory)

    @property
    def card(self) -> Card:
        return Card.parse(self.layout.card.read_text())

    @property
    def name(self) -> str:
        return self.card.region

    @property
    def endpoint(self) -> str:
        return self.config.endpoint

    @property
    def partition_endpoints(self) -> tuple[str, ...]:
        return self.config.partition_endpoints

    def scraped(self) -> dict[str, list[Any]]:
        """Every sample that Prometheus would take, by its name."""
        url = f"http://{self.config.telemetry.metrics}/metrics"
        with urllib.request.urlopen(url) as answer:
            text = answer.read().decode()
        found: dict[str, list[Any]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample)
        return found

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def serve(
        self, *, wait: bool = True, manager: bool = False, under: Sequence[str] = ()
    ) -> None:
        """Start the supervisor; `wait` until its partition servers serve.

        `under`: a command that ends by becoming the one that it is given.
        """
        errors = (self.layout.directory / "serve.err").open("wb")
        with errors:
            self.process = subprocess.Popen(
                [
                    *under,
                    sys.executable,
                    "-m",
                    "hsmvault.server.supervisor",
                    str(self.layout.directory),
                ],
                stderr=errors,
            )
        if wait:
            self.wait_serving(manager=manager)

    def wait_serving(
        self, *, partitions: tuple[str, ...] = PARTITIONS, manager: bool = False
    ) -> None:
        wanted = {*partitions, *(["manager"] if manager else [])}
        self.wait_until(
            lambda: (
                wanted
                <= {p["name"] for p in self.processes() if p["state"] == "serving"}
            ),
            what=f"{wanted} to serve",
        )

    def wait_up(self) -> None:
        """Wait until every process answers, serving or not: an empty region's state."""
        self.wait_until(
            lambda: (
                len([p for p in self.processes() if p["pid"]]) > len(PARTITIONS)
                and all(self.layout.socket(p).exists() for p in PARTITIONS)
                and self.layout.manager_socket.exists()
            ),
            what="all processes",
        )

    def wait_until(
        self, true: Callable[[], bool], *, what: str, seconds: float = START_SECONDS
    ) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            ended = self.process is not None and self.process.poll() is not None
            assert not ended, f"{self.layout.directory} ended:\n{self.said}"
            assert time.monotonic() < deadline, (
                f"waited for {what}; {self.status()}\n{self.said}\n{self.logs()}"
            )
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self.layout.status.read_text())
        except (OSError, ValueError):
            return {}
        # One that was killed leaves its last status behind.
        if self.process is not None and found.get("pid") != self.process.pid:
            return {}
        return found

    def processes(self) -> list[dict[str, Any]]:
        """What status.json says of each process."""
        return list(self.status().get("processes", ()))

    def partition(self, name: str) -> dict[str, Any]:
        """What status.json says of one process."""
        return next(p for p in self.processes() if p["name"] == name)

    @property
    def said(self) -> str:
        """What the supervisor wrote to standard error."""
        path = self.layout.directory / "serve.err"
        return path.read_text() if path.exists() else ""

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(
            f"{path.name}: {path.read_text()[-3000:]}"
            for path in sorted(self.layout.logs.iterdir())
        )

    def kill_partition(self, name: str) -> int:
        """SIGKILL one partition server (or `manager`); returns its former pid."""
        pid = int(self.partition(name)["pid"])
        os.kill(pid, signal.SIGKILL)
        return pid

    def pause_partition(self, name: str) -> int:
        """SIGSTOP it: it hangs until the supervisor kills it."""
        pid = int(self.partition(name)["pid"])
        os.kill(pid, signal.SIGSTOP)
        return pid

    def kill(self) -> None:
        """SIGKILL the supervisor; its processes go with it."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()]
        process.kill()
        process.wait(STOP_SECONDS)
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(alive, pids)):
            assert time.monotonic() < deadline, f"{pids} outlive their supervisor"
            time.sleep(0.01)

    def stop(self) -> int | None:
        """SIGTERM; returns the exit code."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.terminate()
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
            raise

    def ended(self) -> int:
        """Wait until the supervisor ends by itself; returns the exit code."""
        assert self.process is not None
        code = self.process.wait(START_SECONDS)
        self.process = None
        return code


@dataclass
class LiveVault:
    """A vault with its CA, its callers and its regions, all in one directory."""

    directory: Path
    settings: str = ""
    """Added to each region's region.toml."""
    telemetry: Mapping[str, str | int] = field(default_factory=dict)
    """What stands under [telemetry] in its regions' settings."""
    head_seconds: int = HEAD_SECONDS
    regions: dict[str, LiveRegion] = field(default_factory=dict)
    callers: dict[str, ClientFiles] = field(default_factory=dict)
    _channels: list[grpc.Channel] = field(default_factory=list)

    @property
    def ca(self) -> Path:
        return self.directory / "ca"

    @property
    def north(self) -> LiveRegion:
        return self.regions["north"]

    def region(self, name: str) -> LiveRegion:
        return self.regions[name]

    @property
    def admin(self) -> ClientFiles:
        return self.callers["admin"]

    def init(
        self, name: str, *, kind: str = "primary", officer: bool = True
    ) -> LiveRegion:
        """Make a region's directory; an extended one joins `north`."""
        born = init_region(
            RegionPlan(
                self.directory / name,
                name,
                kind,
                ports=region_ports(),
                officer_directory=self.directory / "officer" / name
                if officer
                else None,
                so_pins={} if officer else dict.fromkeys(PARTITIONS, "so-pin-12345678"),
                join=self.north.layout.card if kind == "extended" else None,
                ca_directory=self.ca,
            )
        )
        telemetry = dict(self.telemetry)
        if telemetry.get("metrics") == FREE:
            telemetry["metrics"] = f"127.0.0.1:{free_port()}"
        _configure(born.layout, telemetry | {"head_seconds": self.head_seconds})
        with born.layout.config.open("a") as settings:
            settings.write(self.settings)
        self.regions[name] = LiveRegion(born.layout)
        return self.regions[name]

    def found(self) -> None:
        """Found the vault in `north`, with CN=admin as its administrator."""
        founded = found_vault(
            self.north.layout.directory,
            ca_directory=self.ca,
            out_directory=self.directory / "callers",
        )
        self.callers["admin"] = founded.administrator

    def extend(self, name: str) -> LiveRegion:
        """Make and serve an extended region. It is not in the vault yet."""
        region = self.init(name, kind="extended")
        region.serve(wait=False)
        region.wait_up()
        return region

    def caller(self, name: str) -> ClientFiles:
        """The certificate of CN=name, issued when first asked for; it has no role."""
        if name not in self.callers:
            self.callers[name] = add_caller(self.ca, name, self.directory / "callers")
        return self.callers[name]

    def credentials(self, caller: str = "admin") -> grpc.ChannelCredentials:
        files = self.caller(caller)
        return grpc.ssl_channel_credentials(
            files.ca.read_bytes(),
            files.key.read_bytes(),
            files.certificate.read_bytes(),
        )

    def channel(
        self, region: str = "north", *, caller: str = "admin", partition: str = ""
    ) -> grpc.Channel:
        """Connect to a region's port, or to one partition's own."""
        live = self.region(region)
        endpoint = live.endpoint
        if partition:
            endpoint = live.partition_endpoints[PARTITIONS.index(partition)]
        channel = grpc.secure_channel(
            endpoint,
            self.credentials(caller),
            # Its own connection, so that callers and tests do not share one.
            options=[("grpc.use_local_subchannel_pool", 1)],
        )
        self._channels.append(channel)
        return channel

    def grant(self, caller: str, role: str, *, scope: str = "/") -> None:
        """Assign a built-in role, by its title, to CN=caller."""
        definition = next(r for r in BUILT_IN.values() if r.title == role)
        stub = access_service_pb2_grpc.AccessServiceStub(self.channel())
        stub.CreateRoleAssignment(
            access_service_pb2.CreateRoleAssignmentRequest(
                role_assignment=resources_pb2.RoleAssignment(
                    principal=self.caller(caller).principal,
                    role_definition=definition.name,
                    scope=scope,
                )
            ),
            timeout=30,
            wait_for_ready=True,
        )

    def add(self, name: str) -> None:
        """Add a region to the vault, and wait until it is synchronised and serves."""
        live = self.region(name)
        card = live.card
        stub = region_service_pb2_grpc.RegionServiceStub(self.channel())
        stub.AddRegion(
            region_service_pb2.AddRegionRequest(
                region=region_message(card), fingerprint=card.fingerprint
            ),
            timeout=30,
            wait_for_ready=True,
        )
        live.wait_until(
            lambda: _states(stub).get(name) == "SUCCEEDED",
            what=f"{name} to be added",
        )
        live.wait_serving(manager=True)

    def remove(self, name: str, *, force: bool = False) -> None:
        """Have the administrator order a region's removal. It purges itself."""
        time_ms = time.time_ns() // 1_000_000
        key = load_pem_private_key(self.admin.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        statement = removal_statement(self.north.card.vault_id, name, time_ms)
        request = region_service_pb2.RemoveRegionRequest(
            name=f"regions/{name}",
            force=force,
            authorization=region_service_pb2.RemoveRegionRequest.Authorization(
                certificate=self.admin.certificate.read_text(),
                signature=key.sign(statement, ec.ECDSA(hashes.SHA256())),
            ),
        )
        request.authorization.time.FromMilliseconds(time_ms)
        stub = region_service_pb2_grpc.RegionServiceStub(self.channel())
        stub.RemoveRegion(request, timeout=30)

    def states(self, region: str = "north") -> dict[str, str]:
        """The state of each region, as one of them knows it."""
        return _states(region_service_pb2_grpc.RegionServiceStub(self.channel(region)))

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        for region in self.regions.values():
            region.kill()


def _configure(layout: Layout, settings: Mapping[str, str | int]) -> None:
    text = layout.config.read_text()
    for name, value in settings.items():
        # JSON's texts and numbers are TOML's.
        line = f"{name} = {json.dumps(value)}"
        text, times = re.subn(rf"(?m)^{name} = .*$", line, text)
        assert times == 1, name
    layout.config.write_text(text)


def _states(stub: region_service_pb2_grpc.RegionServiceStub) -> dict[str, str]:
    listed = stub.ListRegions(
        region_service_pb2.ListRegionsRequest(show_purged=True), timeout=10
    )
    return {
        r.name.removeprefix("regions/"): resources_pb2.Region.State.Name(r.state)
        for r in listed.regions
    }


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def region_message(card: Card) -> resources_pb2.Region:
    """What AddRegion wants to know of a region's card."""
    shared, *own = card.token_endpoints or ("",) * (1 + len(card.partitions))
    return resources_pb2.Region(
        name=f"regions/{card.region}",
        token_endpoint=shared,
        zone=card.zone,
        endpoint=card.endpoint,
        private_endpoint=card.private_endpoint,
        certificate=card.certificate,
        partitions=[
            resources_pb2.Partition(
                name=p.name,
                endpoint=p.endpoint,
                identity=p.identity,
                token_endpoint=token,
            )
            for p, token in zip(card.partitions, own, strict=True)
        ],
    )


@contextmanager
def founded_vault(
    directory: Path,
    *,
    settings: str = "",
    telemetry: Mapping[str, str | int] | None = None,
    head_seconds: int = HEAD_SECONDS,
) -> Iterator[LiveVault]:
    """One region, `north`, founded and not served yet."""
    vault = LiveVault(directory, settings, telemetry or {}, head_seconds)
    try:
        vault.init("north")
        vault.found()
        yield vault
    finally:
        vault.close()


@contextmanager
def running_vault(
    directory: Path,
    *,
    settings: str = "",
    telemetry: Mapping[str, str | int] | None = None,
    head_seconds: int = HEAD_SECONDS,
) -> Iterator[LiveVault]:
    """One region, `north`, founded and served; CN=admin administers it."""
    with founded_vault(
        directory, settings=settings, telemetry=telemetry, head_seconds=head_seconds
    ) as vault:
        vault.north.serve()
        yield vault
