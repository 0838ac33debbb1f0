"""Callers of a vault that runs, and what they ask of it most."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import grpc
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmvault.model.log import Position
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1.access_service_pb2 import CreateRoleAssignmentRequest
from hsmvault.v1.crypto_service_pb2 import SignRequest, SignResponse
from hsmvault.v1.key_service_pb2 import CreateKeyRequest, GetKeyRequest
from hsmvault.v1.region_service_pb2 import GetTopologyRequest, Topology
from hsmvault.v1.resources_pb2 import Key, KeySpec, RoleAssignment
from tests.support.regions import LiveVault, running_vault
from tests.support.served import Caller, refusal

SECONDS: Final = 60.0
"""For any one call: a busy machine is no bug."""

USER: Final = "Managed HSM Crypto User"
OFFICER: Final = "Managed HSM Crypto Officer"

HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
)


class Callers:
    """Callers by name, each connected once to where it was asked for.

    `alice` is a Crypto User at /, `olga` a Crypto Officer, `admin` the Administrator.
    """

    def __init__(self, vault: LiveVault) -> None:
        self.vault = vault
        self._known: dict[tuple[str, str, str], Caller] = {}

    def __call__(
        self, name: str = "alice", *, region: str = "north", partition: str = ""
    ) -> Caller:
        place = name, region, partition
        if place not in self._known:
            self._known[place] = self.afresh(name, region=region, partition=partition)
        return self._known[place]

    def afresh(
        self, name: str = "alice", *, region: str = "north", partition: str = ""
    ) -> Caller:
        """Connect anew: a channel to what was killed waits before it dials again."""
        return Caller(self.vault.channel(region, caller=name, partition=partition))

    def everywhere(self, name: str = "alice", *, region: str = "north") -> list[Caller]:
        """The caller at each partition of a region."""
        return [self(name, region=region, partition=p) for p in PARTITIONS]

    def until_linked(self, region: str = "south") -> None:
        """Wait until a region serves, and hears its primary."""
        live = self.vault.region(region)
        live.wait_serving(manager=True)
        caller = self.afresh(region=region)
        live.wait_until(lambda: topology(caller).primary_reachable, what="the link")


@contextmanager
def populated_vault(
    directory: Path,
    *extended: str,
    settings: str = "",
    telemetry: Mapping[str, str | int] | None = None,
) -> Iterator[Callers]:
    """A vault with its callers, and with these extended regions, synchronised."""
    with running_vault(directory, settings=settings, telemetry=telemetry) as vault:
        vault.grant("alice", USER)
        vault.grant("olga", OFFICER)
        vault.north.wait_serving(manager=True)
        for region in extended:
            vault.extend(region)
            vault.add(region)
        yield Callers(vault)


def refusals(
    callers: Iterable[Caller], ask: Callable[[Caller], object]
) -> list[tuple[grpc.StatusCode, str, str]]:
    """Ask each, each must be refused: code, reason and message of every refusal."""
    return [refusal(partial(ask, caller)) for caller in callers]


def create(
    caller: Caller,
    key_id: str,
    kind: str = "EC",
    *,
    bits: int = 0,
    curve: str = "",
    **fields: Any,
) -> Key:
    """Make a key; `fields` are of the request."""
    spec = KeySpec(type=kind, bits=bits, curve=curve)
    return caller.keys.CreateKey(
        CreateKeyRequest(key_id=key_id, key=Key(spec=spec), **fields), timeout=SECONDS
    )


def create_many(caller: Caller, key_ids: list[str], *, at_once: int = 8) -> list[Key]:
    """Make P-256 keys, several at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda key_id: create(caller, key_id), key_ids))


def sign(
    caller: Caller,
    name: str,
    algorithm: str = "ES256",
    digest: bytes = bytes(32),
    *,
    at: str = "",
    seconds: float = SECONDS,
) -> SignResponse:
    """Sign; in a region that has reached the position `at`."""
    return caller.crypto.Sign(
        SignRequest(name=name, algorithm=algorithm, digest=digest),
        timeout=seconds,
        metadata=reached(at) if at else None,
    )


def key(caller: Caller, name: str, *, at: str = "", seconds: float = SECONDS) -> Key:
    """Read a key; in a region that has reached the position `at`."""
    return caller.keys.GetKey(
        GetKeyRequest(name=name),
        timeout=seconds,
        metadata=reached(at) if at else None,
    )


def grant(caller: Caller, principal: str, role: str, scope: str = "/") -> str:
    """Assign a role definition; the position where it is in force."""
    made = caller.access.CreateRoleAssignment(
        CreateRoleAssignmentRequest(
            role_assignment=RoleAssignment(
                principal=principal, role_definition=role, scope=scope
            )
        ),
        timeout=SECONDS,
    )
    return made.position


def reached(position: str) -> tuple[tuple[str, str]]:
    """The metadata that asks for a position."""
    return (("min-position", position),)


def position(caller: Caller) -> Position:
    """How far the region has come that this caller is connected to."""
    return Position.parse(topology(caller).position)


def topology(caller: Caller) -> Topology:
    """What a region says of the vault."""
    return caller.regions.GetTopology(GetTopologyRequest(), timeout=SECONDS)


def verifies(public: bytes, algorithm: str, digest: bytes, signature: bytes) -> bool:
    """Verify a signature without the vault, by the public key alone."""
    half = load_der_public_key(public)
    used = HASHES[algorithm.removesuffix("K")[-3:]]
    try:
        if isinstance(half, ec.EllipticCurvePublicKey):
            middle = len(signature) // 2
            r, s = signature[:middle], signature[middle:]
            pair = encode_dss_signature(int.from_bytes(r), int.from_bytes(s))
            half.verify(pair, digest, ec.ECDSA(Prehashed(used)))
        else:
            assert isinstance(half, rsa.RSAPublicKey)
            pss = padding.PSS(padding.MGF1(used), used.digest_size)
            how = pss if algorithm.startswith("PS") else padding.PKCS1v15()
            half.verify(signature, digest, how, Prehashed(used))
    except InvalidSignature:
        return False
    return True
