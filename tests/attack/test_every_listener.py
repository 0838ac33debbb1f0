"""Every door of a running region, tried without a key to it (AZ-18).

The attacker reaches every port of the machine, and knows every service that any part
of the vault speaks. They have a certificate of another CA, a region's private identity
where callers are wanted, or a caller's certificate where regions are; or nothing. What
is listened on is asked of the kernel, so that a listener which nobody thought of, as
one for metrics or debugging, fails the test until it is judged here.
"""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import hsmvault.local.v1.local_service_pb2 as local_pb
import hsmvault.replication.v1.replication_service_pb2 as replication_pb
from hsmvault.api.services import SERVICES
from hsmvault.regions.certificates import Authority
from hsmvault.regions.layout import PARTITIONS
from tests.support.issuer import TestIssuer
from tests.support.regions import FREE, LiveVault, founded_vault

pytestmark = [pytest.mark.softhsm, pytest.mark.timeout(300)]

LISTENING: Final = "0A"
"""TCP_LISTEN, as /proc/net/tcp has it."""
ACCEPTING: Final = 0x10000
"""SO_ACCEPTCON, as /proc/net/unix has it."""
Code: Final = grpc.StatusCode
SILENT: Final = {Code.UNAVAILABLE}
"""No connection came about: TLS refused it."""


@pytest.fixture(scope="module")
def vault(
    tmp_path_factory: pytest.TempPathFactory, issuer: TestIssuer
) -> Iterator[LiveVault]:
    """A region with everything on that can be: metrics, traces, issuers of tokens."""
    telemetry: dict[str, str | int] = {"metrics": FREE, "traces": "traces"}
    with founded_vault(
        tmp_path_factory.mktemp("doors"), settings=issuer.toml, telemetry=telemetry
    ) as vault:
        vault.north.serve(manager=True)
        yield vault


# --- what there is


def _pids(vault: LiveVault) -> list[int]:
    processes = [int(p["pid"]) for p in vault.north.processes()]
    assert len(processes) == len(PARTITIONS) + 1
    return [vault.north.pid, *processes]


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(file.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def listening(vault: LiveVault) -> tuple[dict[int, str], set[Path], set[str]]:
    """What a region's processes listen on: TCP ports with addresses, Unix sockets.

    And whatever else they have bound in the network.
    """
    ports, paths, others = {}, set(), set()
    for pid in _pids(vault):
        ours = _sockets(pid)
        net = Path(f"/proc/{pid}/net")
        for family in ("tcp", "tcp6"):
            for line in (net / family).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] in ours and fields[3] == LISTENING:
                    address, _, port = fields[1].rpartition(":")
                    ports[int(port, 16)] = address
        for family in ("udp", "udp6", "raw", "raw6", "packet"):
            for line in (net / family).read_text().splitlines()[1:]:
                others |= {line} if ours & set(line.split()[8:10]) else set()
        for line in (net / "unix").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[6] in ours and int(fields[3], 16) & ACCEPTING:
                paths.add(Path(fields[7] if len(fields) > 7 else ""))
    return ports, paths, others


@dataclass(frozen=True)
class Doors:
    """The ports of a region, by what they are for."""

    callers: tuple[int, ...]
    tokens: tuple[int, ...]
    regions: tuple[int, ...]
    metrics: tuple[int, ...]

    @property
    def all(self) -> set[int]:
        return {*self.callers, *self.tokens, *self.regions, *self.metrics}


@pytest.fixture(scope="module")
def doors(vault: LiveVault) -> Doors:
    settings = vault.north.config
    listen, listener = settings.listen, settings.telemetry.listener()
    assert listener is not None
    return Doors(
        callers=(listen.port, *listen.partition_ports),
        tokens=tuple(listen.token_ports),
        regions=(listen.private_port,),
        metrics=(listener[1],),
    )


def test_az_18_a_region_listens_where_this_test_looks_and_nowhere_else(
    vault: LiveVault, doors: Doors
) -> None:
    ports, paths, others = listening(vault)

    assert ports.keys() == doors.all
    # On 127.0.0.1, as was asked for; gRPC has it as an IPv6 address.
    mapped = "0000000000000000FFFF00000100007F"
    assert set(ports.values()) == {"0100007F", mapped}
    layout = vault.north.layout
    assert paths == {*map(layout.socket, PARTITIONS), layout.manager_socket}
    assert not others


def test_az_18_only_the_serving_user_opens_the_sockets_between_processes(
    vault: LiveVault,
) -> None:
    _, paths, _ = listening(vault)

    assert {p.stat().st_mode & 0o777 for p in paths} == {0o600}
    assert {p.parent.stat().st_mode & 0o777 for p in paths} == {0o700}
    assert {p.stat().st_uid for p in paths} == {os.geteuid()}
    if os.geteuid() == 0:
        for path in paths:
            assert _connects_as_nobody(path) == "PermissionError"


def _connects_as_nobody(path: Path) -> str:
    """Try as another user, from inside the directory: by the socket's mode alone."""
    program = (
        "import os, socket, sys\n"
        "os.chdir(os.path.dirname(sys.argv[1]))\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    name = os.path.basename(sys.argv[1])\n"
        "    socket.socket(socket.AF_UNIX).connect(name)\n"
        "except OSError as error:\n"
        "    print(type(error).__name__)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-I", "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


# --- every door, every RPC


def _methods(*modules: ModuleType) -> Iterator[str]:
    for module in modules:
        for service in module.DESCRIPTOR.services_by_name.values():
            yield from (f"/{service.full_name}/{m.name}" for m in service.methods)


PUBLIC: Final = [f"/{s.full_name}/{m.name}" for s in SERVICES for m in s.methods]
PRIVATE: Final = [*_methods(replication_pb, local_pb)]
AROUND: Final = [*_methods(health_pb2, reflection_pb2)]
ELSEWHERE: Final = [
    "/grpc.channelz.v1.Channelz/GetServers",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/hsmvault.v1.KeyService/",
    "/hsmvault.v1.DebugService/Dump",
    "/metrics",
]
EVERY: Final = [*PUBLIC, *PRIVATE, *AROUND, *ELSEWHERE]


def answers(
    port: int, credentials: grpc.ChannelCredentials | None, name: str = ""
) -> Mapping[str, grpc.StatusCode]:
    """Call every RPC there is at a port, on one connection; how each call ended."""
    target = f"127.0.0.1:{port}"
    options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1)]
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    if credentials is None:
        channel = grpc.insecure_channel(target, options)
    else:
        channel = grpc.secure_channel(target, credentials, options)
    with channel:
        return {method: _patiently(channel, method) for method in EVERY}


def _patiently(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    """Call, and again where strangers are told to come more slowly."""
    for _ in range(100):
        code = _called(channel, method)
        if code is not Code.RESOURCE_EXHAUSTED:
            return code
        time.sleep(0.1)
    return Code.RESOURCE_EXHAUSTED


def _called(channel: grpc.Channel, method: str) -> grpc.StatusCode:
    # As a stream both ways, so that it fits whatever the method is.
    ask: Any = channel.stream_stream(method)
    call = ask(iter([b""]), timeout=20)
    try:
        # One answer is one too many, and a stream may have no end.
        answered = next(call, None) is not None
    except grpc.RpcError:
        answered = False
    code: grpc.StatusCode = Code.OK if answered else call.code()
    call.cancel()
    return code


def _tls(
    trusted: bytes, key: Path | bytes | None = None, shown: Path | bytes | None = None
) -> grpc.ChannelCredentials:
    key, shown = (
        one.read_bytes() if isinstance(one, Path) else one for one in (key, shown)
    )
    return grpc.ssl_channel_credentials(trusted, key, shown)


def _strangers(
    vault: LiveVault, directory: Path, trusted: bytes
) -> Mapping[str, grpc.ChannelCredentials | None]:
    """Who has nothing, or what another CA made, by the names that are known here."""
    other = Authority.make(directory / "other-ca", name="hsmvault")
    admin, server = other.caller("admin"), other.server("north", hosts=["127.0.0.1"])
    return {
        "no TLS": None,
        "no certificate": _tls(trusted),
        "the administrator of another CA": _tls(trusted, admin.key, admin.certificate),
        "a server of another CA": _tls(trusted, server.key, server.certificate),
    }


def test_az_18_callers_ports_are_open_to_callers_alone(
    vault: LiveVault, doors: Doors, tmp_path: Path
) -> None:
    layout, ca = vault.north.layout, vault.admin.ca.read_bytes()
    strangers = {
        **_strangers(vault, tmp_path, ca),
        "the region's private identity": _tls(
            ca, layout.private_key, layout.private_certificate
        ),
    }

    for port in doors.callers:
        for who, credentials in strangers.items():
            assert set(answers(port, credentials).values()) == SILENT, (port, who)


def test_az_18_a_caller_without_a_role_finds_no_private_service_and_no_data(
    vault: LiveVault, doors: Doors
) -> None:
    """Nor anything that gRPC itself could serve for debugging."""
    eve = vault.credentials("eve")
    told = {"WaitForPosition", "GetTopology", "GetRegion"}

    for port in doors.callers:
        ended = answers(port, eve)
        for method in (*PRIVATE, *ELSEWHERE):
            assert ended[method] is Code.UNIMPLEMENTED, method
        served = {m for m in PUBLIC if ended[m] is Code.OK}
        assert {m.rpartition("/")[2] for m in served} <= told


def test_az_18_token_ports_tell_nobody_anything(
    vault: LiveVault, doors: Doors, tmp_path: Path
) -> None:
    """No certificate is asked for here, so none helps, and nothing else is open."""
    ca = vault.admin.ca.read_bytes()

    for port in doors.tokens:
        for who, credentials in _strangers(vault, tmp_path / str(port), ca).items():
            ended = answers(port, credentials)
            if credentials is None:
                assert set(ended.values()) == SILENT, who
                continue
            for method in (*PUBLIC, *AROUND):
                assert ended[method] is Code.UNAUTHENTICATED, (who, method)
            for method in (*PRIVATE, *ELSEWHERE):
                refused = {Code.UNAUTHENTICATED, Code.UNIMPLEMENTED}
                assert ended[method] in refused, (who, method)


def test_az_18_the_private_port_is_open_to_regions_alone(
    vault: LiveVault, doors: Doors, tmp_path: Path
) -> None:
    layout = vault.north.layout
    trusted = layout.private_certificate.read_bytes()
    admin = vault.admin
    strangers = {
        **_strangers(vault, tmp_path, trusted),
        "the vault's administrator": _tls(trusted, admin.key, admin.certificate),
        "the region's public certificate": _tls(
            trusted, layout.server_key, layout.server_certificate
        ),
    }

    for port in doors.regions:
        for who, credentials in strangers.items():
            ended = answers(port, credentials, "north.hsmvault.internal")
            assert set(ended.values()) == SILENT, (port, who)


def test_az_18_no_public_or_local_service_is_on_the_private_port(
    vault: LiveVault, doors: Doors
) -> None:
    """For a region that is known there: as the region itself is to itself."""
    layout = vault.north.layout
    trusted = layout.private_certificate.read_bytes()
    itself = _tls(trusted, layout.private_key, layout.private_certificate)
    own = {*_methods(replication_pb)}

    for port in doors.regions:
        ended = answers(port, itself, "north.hsmvault.internal")
        for method in {*EVERY} - own:
            assert ended[method] is Code.UNIMPLEMENTED, method
        for method in own:
            assert ended[method] is not Code.OK, method


def test_az_18_the_metrics_port_speaks_no_grpc_and_gives_nothing_but_metrics(
    vault: LiveVault, doors: Doors
) -> None:
    ca = vault.admin.ca.read_bytes()

    for port in doors.metrics:
        for credentials in (None, _tls(ca), vault.credentials()):
            assert set(answers(port, credentials).values()) == SILENT
        for method, path in (
            ("GET", "/"),
            ("GET", "/debug/pprof/"),
            ("GET", "/metrics/../run/status.json"),
            ("PUT", "/metrics"),
            ("DELETE", "/metrics"),
        ):
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            asked.request(method, path)
            answer = asked.getresponse()
            assert answer.status >= 400
            assert b"hsmvault_" not in answer.read()
            asked.close()
