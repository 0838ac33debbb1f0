"""Keys from outside, as numbers: checked, and written anew.

What a partition gets is ours, byte for byte, whoever wrote the key before. Nothing of a
key is in any message.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from hsmvault.model.algorithms import SIZES, Curve, KeySpec, KeyType, Operation
from hsmvault.model.errors import KeyMaterialInvalid
from hsmvault.model.material import Plain
from hsmvault.model.weakness import require_strong_rsa

CURVES: Final[Mapping[Curve, ec.EllipticCurve]] = MappingProxyType(
    {
        Curve.P256: ec.SECP256R1(),
        Curve.P384: ec.SECP384R1(),
        Curve.P521: ec.SECP521R1(),
        Curve.P256K: ec.SECP256K1(),
    }
)


@dataclass(frozen=True, slots=True)
class Read:
    """A key that was read, and what it says that it is for."""

    plain: Plain
    operations: frozenset[Operation] | None = None
    """None: it does not say."""


def of_rsa(p: int, q: int, d: int, dp: int, dq: int, qi: int, n: int, e: int) -> Plain:  # noqa: PLR0917  # as RFC 8017, 3.2, lists them
    """Take an RSA key, or raise KeyMaterialInvalid: weak, or inconsistent."""
    require_strong_rsa(n, e)
    bits = n.bit_length()
    if p * q != n:
        raise KeyMaterialInvalid("the RSA key is inconsistent: p times q is not n")
    if {p.bit_length(), q.bit_length()} != {bits // 2}:
        raise KeyMaterialInvalid(
            "the RSA key's primes are not both of {half} bits (FIPS 186-5, A.1.1)",
            half=bits // 2,
        )
    if d.bit_length() <= bits // 2:
        raise KeyMaterialInvalid(
            "the RSA key's private exponent is so short that anybody can find it"
        )
    try:
        # Checks the primes, and that each number follows from the others.
        key = rsa.RSAPrivateNumbers(
            p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n)
        ).private_key()
    except (ValueError, OverflowError):
        raise KeyMaterialInvalid(
            "the RSA key is inconsistent: its numbers do not follow from its primes"
        ) from None
    return _plain(KeySpec(KeyType.RSA, bits), key)


def of_ec(curve: Curve, d: int, *, point: tuple[int, int] | None = None) -> Plain:
    """Take an EC key, or raise KeyMaterialInvalid: not one of its curve."""
    known = CURVES[curve]
    if not 0 < d < known.group_order:
        raise KeyMaterialInvalid(
            "the EC key's private value is 0, or not below the order of {curve}",
            curve=curve,
        )
    key = ec.derive_private_key(d, known)
    if point is not None:
        try:
            given = ec.EllipticCurvePublicNumbers(*point, known).public_key()
        except ValueError:
            raise off_curve(curve) from None
        if given.public_numbers() != key.public_key().public_numbers():
            raise KeyMaterialInvalid(
                "the EC key's public point does not belong to its private value"
            )
    return _plain(KeySpec.of(KeyType.EC, curve=curve), key)


def off_curve(curve: Curve) -> KeyMaterialInvalid:
    """Say that a point is none of the curve."""
    return KeyMaterialInvalid(
        "the EC key's public point does not lie on {curve}", curve=curve
    )


def of_bytes(raw: bytes) -> Plain:
    """Take an oct key, or raise KeyMaterialInvalid: its size is none of ours."""
    bits = len(raw) * 8
    if bits not in SIZES[KeyType.OCT]:
        raise KeyMaterialInvalid(
            "oct keys of {bits} bits are not taken; they have {known}",
            bits=bits,
            known=", ".join(map(str, SIZES[KeyType.OCT])),
        )
    return Plain(KeySpec(KeyType.OCT, bits), b"", raw)


def _plain(spec: KeySpec, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> Plain:
    secret = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return Plain(spec, _spki(key.public_key()), secret)


def public_half(raw: bytes) -> bytes:
    """Read SubjectPublicKeyInfo, DER or PEM; return it as we write it."""
    armored = raw.lstrip().startswith(b"-----")
    try:
        key = load_pem_public_key(raw) if armored else load_der_public_key(raw)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise KeyMaterialInvalid("public_key is no RSA or EC SubjectPublicKeyInfo")
    return _spki(key)


def _spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
