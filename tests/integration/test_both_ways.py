"""Every algorithm with every key and size, in both directions, against `cryptography`.

What the vault signs, MACs, encrypts and wraps, `cryptography` verifies and opens, and
the other way round.
"""

import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives import hashes, hmac, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hsmvault.hsm.partition import Partition
from hsmvault.model.algorithms import USES, Algorithm, Curve, KeySpec, KeyType
from hsmvault.model.material import Material, Sealed
from hsmvault.model.stored import KWP, WrappedKey
from tests.support.partitions import SPECS, Pooled, Pools, known, known_rsa

pytestmark = pytest.mark.softhsm

HASHES: Final = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}
CURVES: Final[Mapping[Curve | None, ec.EllipticCurve]] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
    Curve.P256K: ec.SECP256K1(),
}
PLAIN: Final = bytes(range(32))


@lru_cache
def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def _public(spec: KeySpec, key: Any) -> Material:
    """A key of somebody else's: only its public half is known, and verifies."""
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    wrapped = WrappedKey("0" * 32, "north", "region/north", KWP, b"")
    return Material("0" * 32, spec, spki, wrapped, b"")


# Each is given partitions, and a spec and an algorithm that fit.


def _signing(pools: Pools, spec: KeySpec, algorithm: Algorithm) -> None:
    digest = secrets.token_bytes(USES[algorithm].digest)
    how = Prehashed(HASHES[len(digest)])
    if spec.type is KeyType.EC:
        curve = CURVES[spec.curve]
        size = (curve.key_size + 7) // 8
        material = pools.material(spec)
        ours = pools.north.sign(material, algorithm, digest)
        own: Any = load_der_public_key(material.public_key)
        r, s = int.from_bytes(ours[:size]), int.from_bytes(ours[size:])
        own.verify(encode_dss_signature(r, s), digest, ec.ECDSA(how))
        private = ec.generate_private_key(curve)
        r, s = decode_dss_signature(private.sign(digest, ec.ECDSA(how)))
        theirs = r.to_bytes(size) + s.to_bytes(size)
        key: Any = private.public_key()
    else:
        known_hash = HASHES[len(digest)]
        padded: Any = (
            padding.PSS(padding.MGF1(known_hash), known_hash.digest_size)
            if algorithm.startswith("PS")
            else padding.PKCS1v15()
        )
        material = _known_rsa(pools.north, spec.bits)
        ours = pools.north.sign(material, algorithm, digest)
        key = _rsa(spec.bits).public_key()
        key.verify(ours, digest, padded, how)
        theirs = _rsa(spec.bits).sign(digest, padded, how)
    assert pools.north.verify(_public(spec, key), algorithm, digest, theirs)


def _known_rsa(hsm: Pooled, bits: int) -> Material:
    assert isinstance(hsm, Partition)
    return known_rsa(hsm, _rsa(bits))


def _macs(pools: Pools, spec: KeySpec, algorithm: Algorithm) -> None:
    raw = secrets.token_bytes(spec.bits // 8)
    material = known(pools.north, spec, raw)
    outside = hmac.HMAC(raw, HASHES[spec.bits // 8])
    outside.update(PLAIN)
    theirs = outside.finalize()

    assert pools.north.sign(material, algorithm, PLAIN) == theirs
    assert pools.north.verify(material, algorithm, PLAIN, theirs)


def _encryption_padding(algorithm: Algorithm) -> padding.AsymmetricPadding:
    if algorithm is Algorithm.RSA1_5:
        return padding.PKCS1v15()
    known_hash: hashes.HashAlgorithm = (
        hashes.SHA256() if algorithm is Algorithm.RSA_OAEP_256 else hashes.SHA1()  # noqa: S303  # RFC 7518, 4.3
    )
    return padding.OAEP(padding.MGF1(known_hash), known_hash, None)


def _rsa_encryption(pools: Pools, spec: KeySpec, algorithm: Algorithm) -> None:
    private, how = _rsa(spec.bits), _encryption_padding(algorithm)
    hsm, material = pools.north, _known_rsa(pools.north, spec.bits)
    theirs = private.public_key().encrypt(PLAIN, how)

    assert hsm.decrypt(material, algorithm, Sealed(b"", theirs, b""), b"") == PLAIN
    assert hsm.unwrap(material, algorithm, theirs) == PLAIN
    ours = hsm.encrypt(material, algorithm, PLAIN, b"")
    assert private.decrypt(ours.ciphertext, how) == PLAIN
    assert private.decrypt(hsm.wrap(material, algorithm, PLAIN), how) == PLAIN


def _gcm(pools: Pools, spec: KeySpec, algorithm: Algorithm) -> None:
    raw, iv = secrets.token_bytes(spec.bits // 8), secrets.token_bytes(12)
    hsm, material = pools.north, known(pools.north, spec, raw)
    theirs = AESGCM(raw).encrypt(iv, PLAIN, b"aad")

    sealed = Sealed(iv, theirs[:-16], theirs[-16:])
    assert hsm.decrypt(material, algorithm, sealed, b"aad") == PLAIN
    ours = hsm.encrypt(material, algorithm, PLAIN, b"aad")
    assert AESGCM(raw).decrypt(ours.iv, ours.ciphertext + ours.tag, b"aad") == PLAIN


def _cbc(pools: Pools, spec: KeySpec, algorithm: Algorithm) -> None:
    raw, iv = secrets.token_bytes(spec.bits // 8), secrets.token_bytes(16)
    hsm, material = pools.north, known(pools.north, spec, raw)
    padded = algorithm.endswith("PAD")
    plain = PLAIN[:-1] if padded else PLAIN
    padder = PKCS7(128).padder()
    filled = padder.update(plain) + padder.finalize() if padded else plain
    step = Cipher(AES(raw), modes.CBC(iv)).encryptor()
    theirs = step.update(filled) + step.finalize()

    assert hsm.decrypt(material, algorithm, Sealed(iv, theirs, b""), b"") == plain
    ours = hsm.encrypt(material, algorithm, plain, b"")
    back = Cipher(AES(raw), modes.CBC(ours.iv)).decryptor()
    assert back.update(ours.ciphertext) + back.finalize() == filled


def _kw(pools: Pools, spec: KeySpec, algorithm: Algorithm) -> None:
    raw = secrets.token_bytes(spec.bits // 8)
    hsm, material = pools.north, known(pools.north, spec, raw)
    theirs = keywrap.aes_key_wrap(raw, PLAIN)

    assert hsm.unwrap(material, algorithm, theirs) == PLAIN
    assert hsm.wrap(material, algorithm, PLAIN) == theirs


BOTH_WAYS: Final[Mapping[str, Callable[[Pools, KeySpec, Algorithm], None]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), _signing),
    **dict.fromkeys(("ES256", "ES384", "ES512", "ES256K"), _signing),
    **dict.fromkeys(("HS256", "HS384", "HS512"), _macs),
    **dict.fromkeys(("RSA-OAEP", "RSA-OAEP-256", "RSA1_5"), _rsa_encryption),
    **dict.fromkeys(("A128GCM", "A192GCM", "A256GCM"), _gcm),
    **dict.fromkeys(("A128CBC", "A192CBC", "A256CBC"), _cbc),
    **dict.fromkeys(("A128CBCPAD", "A192CBCPAD", "A256CBCPAD"), _cbc),
    **dict.fromkeys(("A128KW", "A192KW", "A256KW"), _kw),
}


def test_no_algorithm_is_missing() -> None:
    assert BOTH_WAYS.keys() == {algorithm.value for algorithm in Algorithm}


@pytest.mark.parametrize(
    ("spec", "algorithm"),
    [
        (spec, algorithm)
        for algorithm, use in USES.items()
        for spec in SPECS
        if use.type is spec.type
        and use.bits in {0, spec.bits}
        and use.curve is spec.curve
    ],
    ids=str,
)
def test_vault_and_cryptography_understand_each_other(
    real_pools: Pools, spec: KeySpec, algorithm: Algorithm
) -> None:
    BOTH_WAYS[algorithm.value](real_pools, spec, algorithm)
