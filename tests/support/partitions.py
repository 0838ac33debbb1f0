"""Partitions to test with, real ones and fakes, behind one face.

A process can load SoftHSM with one configuration only, so all tokens that tests open in
their own process lie side by side under one; it is unset again once they are loaded.
"""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType as CkKeyType

from hsmvault.hsm import module
from hsmvault.hsm.core import PartitionConfig
from hsmvault.hsm.generating import wrap_for
from hsmvault.hsm.module import TokenAddress
from hsmvault.hsm.partition import Partition
from hsmvault.hsm.session import Session
from hsmvault.model.algorithms import USES, Algorithm, KeySpec, Operation
from hsmvault.model.material import Material
from hsmvault.model.stored import WrappedKey
from hsmvault.vault.ports import Hsm, PoolHsm
from hsmvault.vault.recounting import TokenMemory
from tests.support.fakes import FakeHsm
from tests.support.softhsm import MODULE, Officers, Token, birth_pair, birth_region

VAULT: Final = "0123456789abcdef0123456789abcdef"

SPECS: Final = (
    *(KeySpec.of("RSA", bits=bits) for bits in (2048, 3072, 4096)),
    *(KeySpec.of("EC", curve=curve) for curve in ("P-256", "P-384", "P-521", "P-256K")),
    *(KeySpec.of("oct", bits=bits) for bits in (128, 192, 256, 384, 512)),
)


def algorithms(operation: Operation) -> list[tuple[KeySpec, Algorithm]]:
    """Every key type and size with every algorithm that does this with it."""
    return [
        (spec, algorithm)
        for spec in SPECS
        for algorithm, use in USES.items()
        if use.type is spec.type
        and operation in use.operations
        and use.bits in {0, spec.bits}
        and use.curve is spec.curve
    ]


class Pooled(Hsm, PoolHsm, TokenMemory, Protocol):
    """Both halves of a partition."""

    @property
    def open_keys(self) -> int: ...


@dataclass(frozen=True)
class Pools:
    """Two partitions of `north`, one of `south`, and the pair keys between them."""

    north: Pooled
    sibling: Pooled
    south: Pooled
    identity: bytes
    """SubjectPublicKeyInfo (DER) of the first one's identity key."""
    materials: dict[KeySpec, Material]

    def material(self, spec: KeySpec) -> Material:
        """One key of each kind, made when first asked for: RSA takes its time."""
        if spec not in self.materials:
            self.materials[spec] = fresh(self.north, spec)
        return self.materials[spec]


def fresh(hsm: Hsm, spec: KeySpec) -> Material:
    """A new key of `north`, at rest there."""
    version = secrets.token_hex(16)
    made = hsm.generate(version, spec, regions=["north"])
    return at_rest(hsm, spec, made.public_key, made.wrapped[0])


def at_rest(
    hsm: Hsm, spec: KeySpec, public_key: bytes, wrapped: WrappedKey
) -> Material:
    """A wrapped key as a store would give it back: with the region's MAC."""
    [mac] = hsm.mac([wrapped.statement(VAULT)])
    return Material(wrapped.version, spec, public_key, wrapped, mac)


def known(hsm: Hsm, spec: KeySpec, raw: bytes) -> Material:
    """An oct key of `north` whose bytes the test knows, at rest there."""
    version = secrets.token_hex(16)
    if isinstance(hsm, FakeHsm):
        wrapped = hsm.wrap_known(version, raw)
    else:
        assert isinstance(hsm, Partition)
        wrapped = hsm._core.run(lambda session: _wrap_known(hsm, session, version, raw))
    return at_rest(hsm, spec, b"", wrapped)


def known_rsa(hsm: Partition, key: rsa.RSAPrivateKey) -> Material:
    """An RSA key of `north` that the test brought, at rest there."""
    version = secrets.token_hex(16)
    wrapped = _wrap_known_rsa(hsm, version, key)
    spki = key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return at_rest(hsm, KeySpec.of("RSA", bits=key.key_size), spki, wrapped)


def _wrap_known_rsa(hsm: Partition, version: str, key: rsa.RSAPrivateKey) -> WrappedKey:
    numbers = key.private_numbers()
    parts = {
        Attribute.MODULUS: numbers.public_numbers.n,
        Attribute.PUBLIC_EXPONENT: numbers.public_numbers.e,
        Attribute.PRIVATE_EXPONENT: numbers.d,
        Attribute.PRIME_1: numbers.p,
        Attribute.PRIME_2: numbers.q,
        Attribute.EXPONENT_1: numbers.dmp1,
        Attribute.EXPONENT_2: numbers.dmq1,
        Attribute.COEFFICIENT: numbers.iqmp,
    }

    def work(session: Session) -> WrappedKey:
        made = session.raw.create_object(
            {
                Attribute.CLASS: ObjectClass.PRIVATE_KEY,
                Attribute.KEY_TYPE: CkKeyType.RSA,
                Attribute.TOKEN: False,
                Attribute.PRIVATE: True,
                Attribute.SENSITIVE: False,
                Attribute.EXTRACTABLE: True,
                **{a: n.to_bytes((n.bit_length() + 7) // 8) for a, n in parts.items()},
            }
        )
        return wrap_for(hsm._core, session, made, version=version, region="north")

    return hsm._core.run(work)


def _wrap_known(
    hsm: Partition, session: Session, version: str, raw: bytes
) -> WrappedKey:
    made = session.raw.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: CkKeyType.GENERIC_SECRET,
            Attribute.TOKEN: False,
            Attribute.PRIVATE: True,
            Attribute.EXTRACTABLE: True,
            Attribute.VALUE: raw,
        }
    )
    return wrap_for(hsm._core, session, made, version=version, region="north")


def config(
    token: Token,
    region: str,
    partition: str,
    *,
    sessions: int = 4,
    open_keys: int = 1000,
) -> PartitionConfig:
    """The configuration of a partition on this token."""
    address = TokenAddress(MODULE, token.label, "", token.user_pin)
    return PartitionConfig(
        partition, region, address, sessions=sessions, open_keys=open_keys
    )


@dataclass(frozen=True)
class Loaded:
    """Tokens that this process has loaded, by (region, partition)."""

    tokens: Mapping[tuple[str, str], Token]
    identity: bytes

    def open(
        self,
        region: str,
        partition: str,
        *,
        sessions: int = 4,
        open_keys: int = 1000,
    ) -> Partition:
        """Open one more Partition on a token."""
        token = self.tokens[region, partition]
        limits = config(
            token, region, partition, sessions=sessions, open_keys=open_keys
        )
        return Partition.open(limits, vault_id=VAULT)


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """`north` p0 and p1, and `south` p0, born by ceremonies, loaded in this process."""
    place: Path = tmp_path_factory.mktemp("loaded")
    north = birth_region(place, "north", partitions=("p0", "p1"), shared=True)
    south = birth_region(place, "south", partitions=("p0",), shared=True)
    with Officers(north, south) as officers:
        birth_pair(officers, north, south)
        birth_pair(officers, south, north)
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ.update(north.tokens["p0"].environment)
    try:
        module.load(MODULE)
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
    return Loaded(
        {(r.region, p): t for r in (north, south) for p, t in r.tokens.items()},
        north.identities["p0"],
    )


@pytest.fixture(scope="session")
def real_pools(loaded: Loaded) -> Pools:
    """The pools on SoftHSM2."""
    return Pools(
        loaded.open("north", "p0"),
        loaded.open("north", "p1"),
        loaded.open("south", "p0"),
        loaded.identity,
        {},
    )


@pytest.fixture(scope="session")
def fake_pools() -> Pools:
    """The pools in Python."""
    keys: dict[str, bytes] = {}
    north = FakeHsm("p0", "north", keys, vault_id=VAULT)
    north.add_pair("south")
    return Pools(
        north,
        FakeHsm("p1", "north", keys, vault_id=VAULT),
        FakeHsm("p0", "south", keys, vault_id=VAULT),
        north.identity_public_key,
        {},
    )


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.softhsm)])
def pools(request: pytest.FixtureRequest) -> Pools:
    """Both of them in turn: what holds for the fake holds for the real one."""
    made: Pools = request.getfixturevalue(f"{request.param}_pools")
    return made
