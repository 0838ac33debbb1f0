"""What a partition promises to the vault: held by SoftHSM2, and by the fake alike."""

import dataclasses
import secrets
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmvault.model.algorithms import (
    GCM,
    USES,
    Algorithm,
    Curve,
    KeySpec,
    KeyType,
    Operation,
)
from hsmvault.model.errors import (
    CiphertextInvalid,
    DigestInvalid,
    IntegrityFailure,
    InvalidRequest,
    RegionNotReady,
    WrappedKeyInvalid,
)
from hsmvault.model.log import Epoch, Head, Position
from hsmvault.model.material import Material, Sealed
from tests.support.partitions import (
    SPECS,
    VAULT,
    Pools,
    algorithms,
    at_rest,
    fresh,
    known,
)

HASHES = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}
AES = KeySpec.of("oct", bits=256)
HMAC = KeySpec.of("oct", bits=512)
P256 = KeySpec.of("EC")
RSA = KeySpec.of("RSA", bits=2048)
CURVES = {
    Curve.P256: "secp256r1",
    Curve.P384: "secp384r1",
    Curve.P521: "secp521r1",
    Curve.P256K: "secp256k1",
}


def flipped(data: bytes, place: int = 0) -> bytes:
    """The same bytes with one bit turned."""
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def verify_outside(
    material: Material, algorithm: Algorithm, digest: bytes, signature: bytes
) -> None:
    """Verify with `cryptography` alone; raises InvalidSignature."""
    key = load_der_public_key(material.public_key)
    known = HASHES[len(digest)]
    if isinstance(key, ec.EllipticCurvePublicKey):
        half = len(signature) // 2
        assert half == (key.key_size + 7) // 8, "raw r||s, each as long as the curve"
        r, s = (int.from_bytes(p) for p in (signature[:half], signature[half:]))
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(known)))
        return
    assert isinstance(key, rsa.RSAPublicKey)
    padded = (
        padding.PSS(padding.MGF1(known), known.digest_size)
        if algorithm.startswith("PS")
        else padding.PKCS1v15()
    )
    key.verify(signature, digest, padded, Prehashed(known))


# --- making ----------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_fresh_key_is_what_was_asked_for(pools: Pools, spec: KeySpec) -> None:
    material = pools.material(spec)

    assert material.wrapped.wrapping_key == "region/north"
    assert material.wrapped.mechanism == "KWP"
    if spec.type is KeyType.OCT:
        assert material.public_key == b""
        return
    key = load_der_public_key(material.public_key)
    if isinstance(key, rsa.RSAPublicKey):
        assert (key.key_size, key.public_numbers().e) == (spec.bits, 65537)
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert spec.curve is not None
        assert key.curve.name == CURVES[spec.curve]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_sibling_can_use_what_one_partition_made(pools: Pools, spec: KeySpec) -> None:
    pools.sibling.self_test(pools.material(spec))


@pytest.mark.parametrize("spec", [AES, HMAC, P256, RSA], ids=str)
def test_a_key_travels_under_the_pair_key_and_rests_under_the_own(
    pools: Pools, spec: KeySpec
) -> None:
    version = secrets.token_hex(16)
    made = pools.north.generate(version, spec, regions=["north", "south"])
    own, other = made.wrapped
    assert other.wrapping_key == "pair/north/south"
    assert own.wrapped != other.wrapped

    arrived = pools.south.rewrap(spec, made.public_key, other)

    assert (arrived.version, arrived.region) == (version, "south")
    assert arrived.wrapping_key == "region/south"
    pools.south.self_test(at_rest(pools.south, spec, made.public_key, arrived))


def test_an_existing_key_can_be_sealed_for_another_region(pools: Pools) -> None:
    material = pools.material(P256)

    sealed = pools.sibling.seal(material, "south")
    arrived = pools.south.rewrap(P256, material.public_key, sealed)

    at_south = at_rest(pools.south, P256, material.public_key, arrived)
    digest = secrets.token_bytes(32)
    signature = pools.south.sign(at_south, Algorithm.ES256, digest)
    verify_outside(material, Algorithm.ES256, digest, signature)


def test_an_hmac_key_macs_alike_in_every_region(pools: Pools) -> None:
    material = pools.material(HMAC)
    sealed = pools.sibling.seal(material, "south")
    arrived = pools.south.rewrap(HMAC, b"", sealed)

    at_south = at_rest(pools.south, HMAC, b"", arrived)
    made = pools.south.sign(at_south, Algorithm.HS512, b"pay 5")

    assert pools.north.sign(material, Algorithm.HS512, b"pay 5") == made


def test_nothing_is_made_for_a_region_without_a_pair_key(pools: Pools) -> None:
    with pytest.raises(RegionNotReady, match="west"):
        pools.north.generate(secrets.token_hex(16), P256, regions=["north", "west"])
    with pytest.raises(RegionNotReady, match="west"):
        pools.north.seal(pools.material(P256), "west")

    assert not pools.north.has_pair_keys("west")
    assert pools.north.has_pair_keys("south")
    assert pools.north.drop_pair_keys("west") == 0


def test_what_travelled_for_one_region_does_not_open_in_another(pools: Pools) -> None:
    material = pools.material(P256)
    sealed = pools.north.seal(material, "south")

    with pytest.raises(WrappedKeyInvalid):
        pools.north.rewrap(P256, material.public_key, sealed)
    with pytest.raises(WrappedKeyInvalid):
        pools.south.rewrap(P256, material.public_key, material.wrapped)
    back = dataclasses.replace(sealed, wrapping_key="pair/west/south")
    with pytest.raises(RegionNotReady):
        pools.south.rewrap(P256, material.public_key, back)


# --- opening ---------------------------------------------------------------------


def test_a_wrapped_key_with_one_bit_turned_does_not_open(pools: Pools) -> None:
    for spec in (AES, HMAC, P256, RSA):
        material = fresh(pools.north, spec)
        for place in (0, len(material.wrapped.wrapped) - 1):
            bad = dataclasses.replace(
                material.wrapped, wrapped=flipped(material.wrapped.wrapped, place)
            )
            broken = at_rest(pools.north, spec, material.public_key, bad)

            with pytest.raises(WrappedKeyInvalid):
                pools.north.self_test(broken)

        pools.north.self_test(material)


@pytest.mark.parametrize("wrapped", [b"", b"\0" * 7, b"\0" * 24, b"\0" * 8192])
def test_bytes_that_nobody_wrapped_do_not_open(pools: Pools, wrapped: bytes) -> None:
    material = pools.material(AES)
    bad = dataclasses.replace(material.wrapped, wrapped=wrapped)

    with pytest.raises(WrappedKeyInvalid):
        pools.sibling.self_test(at_rest(pools.sibling, AES, b"", bad))

    pools.sibling.self_test(material)


def test_a_wrapped_key_that_this_region_did_not_mac_does_not_open(pools: Pools) -> None:
    material = pools.material(AES)
    [elsewhere] = pools.north.mac([material.wrapped.statement("f" * 32)])

    for mac in (b"", flipped(material.mac), material.mac[:16], elsewhere):
        with pytest.raises(IntegrityFailure):
            pools.sibling.self_test(dataclasses.replace(material, mac=mac))


def test_a_wrapped_key_of_another_version_does_not_open(pools: Pools) -> None:
    one, other = fresh(pools.north, AES), fresh(pools.north, AES)

    swapped = dataclasses.replace(one, wrapped=other.wrapped, mac=other.mac)

    with pytest.raises(WrappedKeyInvalid):
        pools.sibling.self_test(swapped)


@pytest.mark.parametrize("spec", [P256, RSA], ids=str)
def test_a_key_with_another_public_half_does_not_open(
    pools: Pools, spec: KeySpec
) -> None:
    one, other = fresh(pools.north, spec), fresh(pools.north, spec)

    with pytest.raises(WrappedKeyInvalid):
        pools.sibling.self_test(dataclasses.replace(one, public_key=other.public_key))


def test_an_oct_key_of_another_size_does_not_open(pools: Pools) -> None:
    material = fresh(pools.north, AES)

    short = dataclasses.replace(material, spec=KeySpec.of("oct", bits=128))

    with pytest.raises(WrappedKeyInvalid):
        pools.sibling.self_test(short)


def test_cr_16_what_was_forgotten_is_no_longer_open(pools: Pools) -> None:
    """After a disable or a deletion the vault forgets a version: no handle stays."""
    material = fresh(pools.north, P256)
    before = pools.north.open_keys
    pools.north.sign(material, Algorithm.ES256, secrets.token_bytes(32))
    opened = pools.north.open_keys

    pools.north.forget([material.version])

    assert (opened - before, pools.north.open_keys - before) == (1, 0)


def test_what_was_forgotten_is_opened_anew(pools: Pools) -> None:
    material = fresh(pools.north, P256)
    digest = secrets.token_bytes(32)
    pools.north.sign(material, Algorithm.ES256, digest)
    untrusted = dataclasses.replace(material, mac=bytes(32))
    pools.north.sign(untrusted, Algorithm.ES256, digest)  # open, so not looked at

    pools.north.forget([material.version])

    with pytest.raises(IntegrityFailure):
        pools.north.sign(untrusted, Algorithm.ES256, digest)
    pools.north.sign(material, Algorithm.ES256, digest)


# --- signing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [pair for pair in algorithms(Operation.SIGN) if USES[pair[1]].digest],
    ids=str,
)
def test_what_it_signs_verifies_outside_and_inside(
    pools: Pools, spec: KeySpec, algorithm: Algorithm
) -> None:
    material = pools.material(spec)
    digest = secrets.token_bytes(USES[algorithm].digest)

    signature = pools.north.sign(material, algorithm, digest)

    verify_outside(material, algorithm, digest, signature)
    assert pools.sibling.verify(material, algorithm, digest, signature)
    other = secrets.token_bytes(USES[algorithm].digest)
    assert not pools.north.verify(material, algorithm, other, signature)


@pytest.mark.parametrize("size", [1, 32, 127, 64 * 1024])
@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [pair for pair in algorithms(Operation.SIGN) if not USES[pair[1]].digest],
    ids=str,
)
def test_its_macs_are_those_that_cryptography_makes(
    pools: Pools, spec: KeySpec, algorithm: Algorithm, size: int
) -> None:
    raw, data = secrets.token_bytes(spec.bits // 8), secrets.token_bytes(size)
    material = known(pools.north, spec, raw)
    outside = hmac.HMAC(raw, HASHES[spec.bits // 8])
    outside.update(data)
    wanted = outside.finalize()

    made = pools.north.sign(material, algorithm, data)

    assert made == wanted
    assert pools.sibling.verify(material, algorithm, data, wanted)
    for bad in (
        b"",
        flipped(wanted),
        flipped(wanted, len(wanted) - 1),
        wanted[:-1],
        wanted[:16],
        wanted + b"\0",
    ):
        assert not pools.sibling.verify(material, algorithm, data, bad)
    assert not pools.sibling.verify(material, algorithm, flipped(data), wanted)


@pytest.mark.parametrize("algorithm", [Algorithm.ES256, Algorithm.PS256])
def test_no_bad_signature_verifies_and_none_is_an_error(
    pools: Pools, algorithm: Algorithm
) -> None:
    material = pools.material(P256 if algorithm is Algorithm.ES256 else RSA)
    digest = secrets.token_bytes(32)
    good = pools.north.sign(material, algorithm, digest)

    for bad in (
        b"",
        b"\0" * len(good),
        b"\xff" * len(good),
        good[:-1],
        good + b"\0",
        flipped(good),
        flipped(good, len(good) - 1),
        good[len(good) // 2 :] + good[: len(good) // 2],
    ):
        assert not pools.north.verify(material, algorithm, digest, bad)


@pytest.mark.parametrize("size", [0, 20, 31, 33, 64])
def test_a_digest_of_the_wrong_length_is_refused(pools: Pools, size: int) -> None:
    for spec, algorithm in ((P256, Algorithm.ES256), (RSA, Algorithm.RS256)):
        with pytest.raises(DigestInvalid):
            pools.north.sign(pools.material(spec), algorithm, bytes(size))


# --- encrypting ------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "algorithm"), algorithms(Operation.ENCRYPT), ids=str)
def test_what_one_partition_encrypts_another_decrypts(
    pools: Pools, spec: KeySpec, algorithm: Algorithm
) -> None:
    material = pools.material(spec)

    secret = b"sixteen bytes it"

    sealed = pools.north.encrypt(material, algorithm, secret, b"")

    assert secret not in sealed.ciphertext
    assert pools.sibling.decrypt(material, algorithm, sealed, b"") == secret


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [pair for pair in algorithms(Operation.DECRYPT) if pair[0].type is KeyType.RSA],
    ids=str,
)
def test_what_cryptography_encrypts_decrypts_here(
    pools: Pools, spec: KeySpec, algorithm: Algorithm
) -> None:
    material = pools.material(spec)
    key = load_der_public_key(material.public_key)
    assert isinstance(key, rsa.RSAPublicKey)
    longest = spec.bits // 8 - 11
    how: padding.AsymmetricPadding = padding.PKCS1v15()
    if algorithm is not Algorithm.RSA1_5:
        known: hashes.HashAlgorithm = (
            hashes.SHA1()  # noqa: S303
            if algorithm is Algorithm.RSA_OAEP
            else hashes.SHA256()
        )
        longest = spec.bits // 8 - 2 * known.digest_size - 2
        how = padding.OAEP(padding.MGF1(known), known, None)

    for plaintext in (b"", b"\0", b"\1" * 16, secrets.token_bytes(longest)):
        ciphertext = key.encrypt(plaintext, how)
        sealed = Sealed(b"", ciphertext, b"")

        assert pools.north.decrypt(material, algorithm, sealed, b"") == plaintext
        assert pools.north.unwrap(material, algorithm, ciphertext) == plaintext


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 65536, 1 << 20])
@pytest.mark.parametrize("aad", [b"", b"bound to this"])
def test_gcm_takes_any_length_and_makes_a_fresh_iv(
    pools: Pools, size: int, aad: bytes
) -> None:
    material, plaintext = pools.material(AES), secrets.token_bytes(size)

    sealed = [
        pools.north.encrypt(material, Algorithm.A256GCM, plaintext, aad)
        for _ in range(3)
    ]

    assert len({s.iv for s in sealed}) == 3
    for one in sealed:
        assert (len(one.iv), len(one.ciphertext), len(one.tag)) == (12, size, 16)
        opened = pools.north.decrypt(material, Algorithm.A256GCM, one, aad)
        assert opened == plaintext


def test_no_tampered_gcm_ciphertext_decrypts(pools: Pools) -> None:
    material, how = pools.material(AES), Algorithm.A256GCM
    good = pools.north.encrypt(material, how, b"pay 10 to alice", b"context")

    def bad(**changed: bytes) -> Sealed:
        return dataclasses.replace(good, **changed)

    for sealed, aad in (
        (bad(ciphertext=flipped(good.ciphertext)), b"context"),
        (bad(ciphertext=good.ciphertext[:-1]), b"context"),
        (bad(ciphertext=b""), b"context"),
        (bad(tag=flipped(good.tag)), b"context"),
        (bad(tag=good.tag[:4]), b"context"),
        (bad(tag=b""), b"context"),
        (
            bad(ciphertext=good.ciphertext + good.tag[:4], tag=good.tag[4:]),
            b"context",
        ),
        (bad(iv=flipped(good.iv)), b"context"),
        (bad(iv=good.iv[:1]), b"context"),
        (bad(iv=b""), b"context"),
        (bad(iv=good.iv + b"\0"), b"context"),
        (good, b"another context"),
        (good, b""),
    ):
        with pytest.raises(CiphertextInvalid) as caught:
            pools.north.decrypt(material, how, sealed, aad)
        assert str(caught.value) == "the ciphertext does not decrypt"

    assert pools.north.decrypt(material, how, good, b"context") == b"pay 10 to alice"


@pytest.mark.parametrize("algorithm", [Algorithm.RSA_OAEP, Algorithm.RSA_OAEP_256])
def test_all_bad_rsa_ciphertexts_fail_alike(pools: Pools, algorithm: Algorithm) -> None:
    material = pools.material(RSA)
    good = pools.north.encrypt(material, algorithm, b"a secret", b"").ciphertext
    modulus_long = b"\xff" * len(good)  # not below the modulus

    for bad in (
        b"",
        b"\0",
        good[:-1],
        good + b"\0",
        flipped(good, 100),
        bytes(len(good)),
        modulus_long,
    ):
        with pytest.raises(CiphertextInvalid) as caught:
            pools.north.decrypt(material, algorithm, Sealed(b"", bad, b""), b"")
        assert str(caught.value) == "the ciphertext does not decrypt"

    sealed = Sealed(b"", good, b"")
    assert pools.north.decrypt(material, algorithm, sealed, b"") == b"a secret"


@pytest.mark.parametrize("algorithm", [Algorithm.RSA_OAEP, Algorithm.RSA_OAEP_256])
def test_a_plaintext_longer_than_oaep_takes_is_refused(
    pools: Pools, algorithm: Algorithm
) -> None:
    with pytest.raises(InvalidRequest):
        pools.north.encrypt(pools.material(RSA), algorithm, bytes(250), b"")
    with pytest.raises(InvalidRequest):
        pools.north.wrap(pools.material(RSA), algorithm, bytes(250))


# --- wrapping --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    # By GCM the vault wraps as it encrypts: to a partition it is the same.
    [pair for pair in algorithms(Operation.WRAP_KEY) if pair[1] not in GCM],
    ids=str,
)
def test_what_one_partition_wraps_another_unwraps(
    pools: Pools, spec: KeySpec, algorithm: Algorithm
) -> None:
    material = pools.material(spec)
    for size in (16, 24, 32, 64):
        data = secrets.token_bytes(size)

        wrapped = pools.north.wrap(material, algorithm, data)

        if spec.type is KeyType.OCT:
            assert len(wrapped) == size + 8  # RFC 3394
        assert pools.sibling.unwrap(material, algorithm, wrapped) == data


def test_no_tampered_kw_ciphertext_unwraps(pools: Pools) -> None:
    material, how = pools.material(AES), Algorithm.A256KW
    good = pools.north.wrap(material, how, b"k" * 32)

    for bad in (b"", b"\0" * 8, good[:-1], good[:-8], good + bytes(8), flipped(good)):
        with pytest.raises(CiphertextInvalid) as caught:
            pools.north.unwrap(material, how, bad)
        assert str(caught.value) == "the ciphertext does not decrypt"

    assert pools.north.unwrap(material, how, good) == b"k" * 32


@pytest.mark.parametrize("size", [0, 1, 8, 15, 17, 20])
def test_kw_refuses_what_rfc_3394_does_not_take(pools: Pools, size: int) -> None:
    with pytest.raises(InvalidRequest):
        pools.north.wrap(pools.material(AES), Algorithm.A256KW, bytes(size))


# --- the rest --------------------------------------------------------------------


def test_macs_are_equal_in_one_region_and_not_across(pools: Pools) -> None:
    statements = [b"one", b"two" * 1000]

    macs = pools.north.mac(statements)

    assert [len(mac) for mac in macs] == [32, 32]
    assert macs == pools.sibling.mac(statements)
    assert set(macs).isdisjoint(pools.south.mac(statements))
    pairs = list(zip(statements, macs, strict=True))
    pools.sibling.check_macs(pairs)
    pools.sibling.check_macs([])
    for bad in (
        (b"one", macs[1]),
        (b"one", flipped(macs[0])),
        (b"one", b""),
        (b"three", macs[0]),
    ):
        with pytest.raises(IntegrityFailure):
            pools.sibling.check_macs([*pairs, bad])


def test_a_statement_is_signed_by_the_identity_key(pools: Pools) -> None:
    statement = b"the head of the log " * 50

    signature = pools.north.sign_statement(statement)

    key = load_der_public_key(pools.identity)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert len(signature) == 64
    r, s = (int.from_bytes(p) for p in (signature[:32], signature[32:]))
    key.verify(encode_dss_signature(r, s), statement, ec.ECDSA(hashes.SHA256()))


def test_random_bytes_are_as_many_as_asked_for_and_differ(pools: Pools) -> None:
    for count in (1, 12, 32, 1000, 65536):
        assert len(pools.north.random(count)) == count
    assert pools.north.random(32) != pools.north.random(32)


def test_what_is_remembered_of_the_counters_never_goes_back(pools: Pools) -> None:
    before = pools.south.read_generation()

    for generation in (before + 7, before + 5, before + 7):
        pools.south.write_generation(generation)

        assert pools.south.read_generation() == before + 7


def test_the_anchored_head_never_goes_back(pools: Pools) -> None:
    def head(number: int, index: int) -> Head:
        return Head(Position(Epoch(number, "south"), index), secrets.token_bytes(32))

    heads = [head(1, 5), head(1, 6), head(2, 7)]
    for earlier, later in pairwise(heads):
        pools.south.write_anchor(later)
        pools.south.write_anchor(earlier)
        pools.south.write_anchor(head(later.position.epoch.number, 1))

        assert pools.south.read_anchor() == later


def test_a_material_of_this_vault_names_it(pools: Pools) -> None:
    material = pools.material(AES)

    pools.north.check_macs([(material.wrapped.statement(VAULT), material.mac)])
