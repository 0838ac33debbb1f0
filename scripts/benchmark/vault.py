"""The vault under measurement: one real region, made for the run."""

import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from hsmvault import config
from hsmvault.model.access import CRYPTO_USER
from hsmvault.regions.certificates import ClientFiles
from hsmvault.server import dev, founding
from hsmvault.v1 import (
    access_service_pb2,
    access_service_pb2_grpc,
    key_service_pb2,
    key_service_pb2_grpc,
    resources_pb2,
)


@dataclass(frozen=True, slots=True)
class Vault:
    """One serving region and the files of a caller that may use keys."""

    directory: Path
    caller: ClientFiles
    start_seconds: float
    """From starting the supervisor to all three partitions serving."""

    def endpoint(self, partition: int) -> str:
        """host:port of one partition's own listener."""
        return config.load(self.directory).partition_endpoints[partition]

    def pid(self, partition: str) -> int:
        """The process that serves one partition."""
        for process in dev.region_status(self.directory)["processes"]:
            if process["name"] == partition:
                return int(process["pid"])
        raise LookupError(partition)


@contextmanager
def serving(home: Path) -> Iterator[Vault]:
    """Make a region below `home`, serve it, and stop it in the end."""
    region, ca = home / "north", home / "ca"
    founding.init_region(
        founding.RegionPlan(
            directory=region,
            name="north",
            kind="primary",
            officer_directory=home / "officer" / "north",
            ca_directory=ca,
        )
    )
    founded = founding.found_vault(
        region,
        administrator="bench",
        ca_directory=ca,
        out_directory=home / "callers" / "bench",
    )
    start = time.perf_counter()
    dev.start_region(region)
    took = time.perf_counter() - start
    try:
        vault = Vault(region, founded.administrator, took)
        with channel(vault.caller, vault.endpoint(0)) as to_first:
            access_service_pb2_grpc.AccessServiceStub(to_first).CreateRoleAssignment(
                access_service_pb2.CreateRoleAssignmentRequest(
                    role_assignment=resources_pb2.RoleAssignment(
                        principal=vault.caller.principal,
                        role_definition=CRYPTO_USER.name,
                        scope="/",
                    )
                )
            )
        yield vault
    finally:
        dev.stop_region(region)


def channel(files: ClientFiles, endpoint: str) -> grpc.Channel:
    """One mTLS connection."""
    return grpc.secure_channel(
        endpoint,
        grpc.ssl_channel_credentials(
            files.ca.read_bytes(),
            files.key.read_bytes(),
            files.certificate.read_bytes(),
        ),
    )


def create(to: grpc.Channel, key_id: str, spec: resources_pb2.KeySpec) -> str:
    """Create one key; returns its name."""
    return (
        key_service_pb2_grpc.KeyServiceStub(to)
        .CreateKey(
            key_service_pb2.CreateKeyRequest(
                key_id=key_id, key=resources_pb2.Key(spec=spec)
            )
        )
        .name
    )


def create_many(to: grpc.Channel, prefix: str, count: int) -> tuple[list[str], float]:
    """Create P-256 keys, four at a time; returns their names and the rate."""
    spec = resources_pb2.KeySpec(type="EC", curve="P-256")
    start = time.perf_counter()
    with futures.ThreadPoolExecutor(4) as pool:
        names = list(
            pool.map(lambda n: create(to, f"{prefix}-{n}", spec), range(count))
        )
    return names, count / (time.perf_counter() - start)


def resident_mb(pid: int) -> float:
    """Memory of a process that is its own or shared and resident, in MB (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)
