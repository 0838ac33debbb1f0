"""Oracles: what a partition's answers to bad input could tell of a key, or of a token.

The attacker is a caller who may decrypt and unwrap by the key, and sends what they like
as often as they like; and for the last ones, holds the user PIN and the store.
"""

import dataclasses
import random
import secrets
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers import algorithms as aes
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11.constants import Attribute
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm.partition import Partition
from hsmvault.hsm.templates import INTEGRITY_KEY, REGION_KEY, Purpose, user_key
from hsmvault.model.algorithms import Algorithm, KeySpec, KeyType
from hsmvault.model.errors import CiphertextInvalid, WrappedKeyInvalid
from hsmvault.model.material import Material, Sealed
from tests.attack.scene import KWP, Scene, fences, must, opened_as, pairs
from tests.attack.test_derivations import CHILD, DERIVATIONS, REFUSALS
from tests.attack.test_known_wrapping_key import known_key
from tests.support.partitions import SPECS, Pooled, Pools, at_rest, known
from tests.support.stranger import AES as CKK_AES
from tests.support.stranger import GENERIC_SECRET

RSA = KeySpec.of("RSA", bits=2048)
AES = KeySpec.of("oct")
SIZE = 256


@pytest.fixture
def rsa(real_pools: Pools) -> Iterator[tuple[Pools, Material, RSAPublicKey]]:
    """An RSA key, and that no partition was ever given up for what it was sent."""
    material = real_pools.material(RSA)
    key = load_der_public_key(material.public_key)
    assert isinstance(key, RSAPublicKey)
    yield real_pools, material, key
    for partition in (real_pools.north, real_pools.sibling, real_pools.south):
        assert isinstance(partition, Partition)
        assert partition._core.sessions.lost == ""


def _raw(key: RSAPublicKey, block: bytes) -> bytes:
    """Encrypt a block of the attacker's own making."""
    numbers = key.public_numbers()
    return pow(int.from_bytes(block), numbers.e, numbers.n).to_bytes(SIZE)


def _decrypt(
    hsm: Pooled, material: Material, ciphertext: bytes, how: Algorithm
) -> bytes:
    return hsm.decrypt(material, how, Sealed(b"", ciphertext, b""), b"")


def test_cr_01_no_mutated_ciphertext_is_ever_refused_by_rsa1_5(
    rsa: tuple[Pools, Material, RSAPublicKey],
) -> None:
    """Bleichenbacher (1998), Marvin (2023): one refusal in 2^16 is the plaintext."""
    pools, material, key = rsa
    seed = random.Random(2023)
    good = key.encrypt(b"premaster", padding.PKCS1v15())
    lengths = []

    for _ in range(1200):
        factor = pow(seed.randrange(2, 2**64), 65537, key.public_numbers().n)
        moved = int.from_bytes(good) * factor % key.public_numbers().n
        answered = _decrypt(
            pools.north,
            material,
            moved.to_bytes(SIZE),
            Algorithm.RSA1_5,
        )
        lengths.append(len(answered))

    # As good ones would be: of all lengths, and no two alike but by chance.
    assert max(lengths) <= SIZE - 11
    assert len(set(lengths)) > 150
    assert _decrypt(pools.north, material, good, Algorithm.RSA1_5) == b"premaster"


def test_cr_01_a_bad_ciphertext_is_answered_alike_by_all_partitions_and_regions(
    rsa: tuple[Pools, Material, RSAPublicKey],
) -> None:
    """Were it not, asking two of them would tell it from a good one."""
    pools, material, key = rsa
    sealed = pools.north.seal(material, "south")
    arrived = pools.south.rewrap(RSA, material.public_key, sealed)
    there = at_rest(pools.south, RSA, material.public_key, arrived)
    blocks = [b"\0\2" + b"\xff" * 254, b"\0\1" + b"\xff" * 9 + bytes(245), bytes(256)]

    for block in blocks:
        ciphertext = _raw(key, block)
        answers = {
            hsm.unwrap(one, Algorithm.RSA1_5, ciphertext)
            for hsm, one in (
                (pools.north, material),
                (pools.sibling, material),
                (pools.south, there),
            )
        }

        assert len(answers) == 1
        pools.north.forget([material.version])
        assert pools.north.unwrap(material, Algorithm.RSA1_5, ciphertext) in answers


def test_cr_01_what_is_answered_is_not_to_be_had_without_the_key(
    rsa: tuple[Pools, Material, RSAPublicKey],
) -> None:
    """Its secret is of the private key: another key's answers are others."""
    pools, material, _ = rsa
    other = pools.north.generate(secrets.token_hex(16), RSA, regions=["north"])
    second = at_rest(pools.north, RSA, other.public_key, other.wrapped[0])
    ciphertext = bytes(SIZE - 1) + b"\1"

    answers = {
        pools.north.unwrap(one, Algorithm.RSA1_5, ciphertext)
        for one in (material, second)
    }

    assert len(answers) == 2


@pytest.mark.parametrize("how", [Algorithm.RSA_OAEP, Algorithm.RSA_OAEP_256])
def test_cr_07_every_failure_of_oaep_is_one_error(
    rsa: tuple[Pools, Material, RSAPublicKey], how: Algorithm
) -> None:
    """Manger (2001): the first byte; and labels, hashes and MGFs that do not match."""
    pools, material, key = rsa
    sha: hashes.HashAlgorithm = (
        hashes.SHA256() if how is Algorithm.RSA_OAEP_256 else hashes.SHA1()  # noqa: S303
    )
    other: hashes.HashAlgorithm = hashes.SHA384()

    def oaep(
        mgf: hashes.HashAlgorithm, known: hashes.HashAlgorithm, label: bytes | None
    ) -> bytes:
        return key.encrypt(b"secret", padding.OAEP(padding.MGF1(mgf), known, label))

    told = set()
    for bad in (
        oaep(sha, sha, b"a label"),
        oaep(other, sha, None),
        oaep(sha, other, None),
        oaep(other, other, None),
        key.encrypt(b"secret", padding.PKCS1v15()),
        # Manger's: below the modulus, its first byte not zero.
        _raw(key, b"\1" + bytes(255)),
        _raw(key, b"\0" + b"\xff" * 255),
        bytes(SIZE),
        bytes(SIZE - 1) + b"\1",
    ):
        with pytest.raises(CiphertextInvalid) as caught:
            _decrypt(pools.north, material, bad, how)
        told.add((str(caught.value), *sorted(caught.value.facts.items())))

    assert len(told) == 1
    assert _decrypt(pools.north, material, oaep(sha, sha, None), how) == b"secret"


@pytest.mark.parametrize("length", [0, 1, 11, 12, 27, 28, 4096])
def test_cr_03_short_gcm_ciphertexts_harm_nobody(
    real_pools: Pools, length: int
) -> None:
    material = real_pools.material(AES)
    bad = Sealed(bytes(12), bytes(length), bytes(16))

    with pytest.raises(CiphertextInvalid):
        real_pools.north.decrypt(material, Algorithm.A256GCM, bad, b"")

    good = real_pools.north.encrypt(material, Algorithm.A256GCM, b"x", b"")
    assert real_pools.north.decrypt(material, Algorithm.A256GCM, good, b"") == b"x"


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda w: w[:-1],
        lambda w: w[:8],
        lambda w: w + b"\0" * 8,
        lambda w: bytes([w[0] ^ 1]) + w[1:],
        lambda w: w[:-1] + bytes([w[-1] ^ 128]),
        lambda w: bytes(8) + w,
    ],
    ids=["empty", "cut", "short", "longer", "flipped", "last", "before"],
)
def test_cr_10_a_damaged_wrapped_key_is_no_fault_of_the_partition(
    real_pools: Pools, damage: object
) -> None:
    """The writer of the store even has the region MAC it: the worst case."""
    material = real_pools.material(AES)
    assert callable(damage)
    bad = dataclasses.replace(
        material.wrapped, wrapped=damage(material.wrapped.wrapped)
    )

    with pytest.raises(WrappedKeyInvalid):
        real_pools.north.self_test(at_rest(real_pools.north, AES, b"", bad))

    assert isinstance(real_pools.north, Partition)
    assert real_pools.north._core.sessions.lost == ""
    real_pools.north.self_test(material)


def test_cr_10_a_wrapped_key_of_64_mib_is_not_shown_to_the_token(
    real_pools: Pools,
) -> None:
    material = real_pools.material(AES)
    bad = dataclasses.replace(material.wrapped, wrapped=bytes(64 << 20))

    with pytest.raises(WrappedKeyInvalid, match="longer than any"):
        real_pools.north.self_test(dataclasses.replace(material, wrapped=bad))

    real_pools.north.self_test(material)


def test_cr_13_no_table_lets_a_key_derive_another() -> None:
    """CONCATENATE, XOR, EXTRACT (Luna, CVE-2015-5464): in no list; DERIVE off."""
    tables = [REGION_KEY, INTEGRITY_KEY]
    for spec in SPECS:
        uses = {Purpose.SIGN}
        if spec.type is KeyType.RSA:
            uses = {Purpose.SIGN, Purpose.CIPHER}
        elif spec.type is KeyType.OCT:
            uses = {Purpose.SIGN, Purpose.CIPHER, Purpose.CBC, Purpose.WRAP}
        tables += [user_key(spec, purpose) for purpose in uses]

    for table in tables:
        named = {attribute.name: value for attribute, value in table.items()}
        assert named["DERIVE"] is False
        allowed = named["ALLOWED_MECHANISMS"]
        assert isinstance(allowed, frozenset)
        for word in ("DERIV", "CONCAT", "XOR", "EXTRACT", "ENCRYPT_DATA", "ECB"):
            assert not [m for m in allowed if word in m.name]


def test_a_key_is_open_for_cbc_only_once_somebody_asked_for_it(
    real_pools: Pools,
) -> None:
    """Each block that CBC decrypts is AES backwards: no key offers it unasked."""
    made = real_pools.north.generate(secrets.token_hex(16), AES, regions=["north"])
    material = at_rest(real_pools.north, AES, b"", made.wrapped[0])
    assert isinstance(real_pools.north, Partition)
    sealed = real_pools.north.encrypt(material, Algorithm.A256GCM, b"x", b"")
    wrapped = real_pools.north.wrap(material, Algorithm.A256KW, bytes(16))

    for purpose in (Purpose.CIPHER, Purpose.CBC, Purpose.WRAP):
        allowed = user_key(AES, purpose)[Attribute.ALLOWED_MECHANISMS]
        assert isinstance(allowed, frozenset)
        assert (Mechanism.AES_CBC in allowed) is (purpose is Purpose.CBC)
    open_for = {
        purpose
        for session in real_pools.north._core.sessions._all
        for purpose in Purpose
        if session.opened.get(material.version, purpose)
    }

    assert open_for == {Purpose.CIPHER, Purpose.WRAP}
    assert sealed.tag
    assert wrapped


@pytest.mark.parametrize(
    "end",
    [
        b"\0",
        b"\x11",
        b"\xff",
        b"\1\2",
        b"\2\3\3",
        b"\4\3\4\4",
        b"\0" + b"\x10" * 15,
        b"\x10" * 15 + b"\x0f",
        bytes(16),
    ],
    ids=bytes.hex,
)
def test_every_bad_padding_of_cbc_is_one_error(real_pools: Pools, end: bytes) -> None:
    """Vaudenay (2002). Whether it was padding at all shows; how far it was, not."""
    raw, iv = secrets.token_bytes(32), secrets.token_bytes(16)
    material = known(real_pools.north, AES, raw)
    step = Cipher(aes.AES(raw), modes.CBC(iv)).encryptor()
    block = b"x" * (32 - len(end)) + end
    bad = Sealed(iv, step.update(block) + step.finalize(), b"")

    with pytest.raises(CiphertextInvalid) as caught:
        real_pools.north.decrypt(material, Algorithm.A256CBCPAD, bad, b"")

    assert str(caught.value) == "the ciphertext does not decrypt"
    assert real_pools.north.decrypt(material, Algorithm.A256CBC, bad, b"") == block


def test_what_an_hmac_key_s_session_object_gives_away_is_macs(scene: Scene) -> None:
    """The attacker has PIN and store, and opens an HMAC key as the product does.

    Out come MACs and, which is known, a digest of it. Not its bytes: not read, not
    wrapped, not derived from, not copied into something weaker, not as another type.
    """
    spec = KeySpec.of("oct", bits=512)
    table = [("VALUE_LEN", 64), *pairs(user_key(spec, Purpose.NOTHING))]
    stranger = scene.stranger
    fresh = must(stranger.generate("GENERIC_SECRET_KEY_GEN", table))
    wrapped = stranger.wrap(KWP, under=scene.region_key, key=fresh).data
    stranger.destroy(fresh)
    key = must(scene.open(wrapped, opened_as(GENERIC_SECRET, "SIGN") + fences()))
    known = must(stranger.create(known_key(stranger)))

    assert stranger.use("Sign", "SHA512_HMAC", key, b"data").ok
    assert stranger.get(key, "VALUE").rv == "CKR_ATTRIBUTE_SENSITIVE"
    for mechanism in (KWP, "AES_KEY_WRAP"):
        told = stranger.wrap(mechanism, under=known, key=key)
        assert told.rv == "CKR_KEY_NOT_WRAPPABLE"
    for mechanism in DERIVATIONS:
        assert stranger.derive(mechanism, key, CHILD, bytes(16)).rv in REFUSALS
    for attribute in ("SENSITIVE", "WRAP_WITH_TRUSTED"):
        assert not stranger.set(key, (attribute, False)).ok
        assert not stranger.copy(key, [(attribute, False)]).ok
    # Sixty-four bytes are no AES key, and no other use is to be had of them.
    as_aes = scene.open(wrapped, opened_as(CKK_AES, "ENCRYPT", "DECRYPT") + fences())
    assert (
        not as_aes.ok
        or not stranger.use("Encrypt", "AES_ECB", as_aes.handle, bytes(16)).ok
    )
    as_wrapping = scene.open(wrapped, opened_as(GENERIC_SECRET, "WRAP") + fences())
    assert (
        not as_wrapping.ok
        or not stranger.wrap(KWP, under=as_wrapping.handle, key=scene.aes("ENCRYPT")).ok
    )
