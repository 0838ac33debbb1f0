"""The public halves of keys: read from a token, and used outside of it.

What needs no secret needs no HSM: verifying and encrypting to an RSA key happen here.
"""

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias

from asn1crypto.core import OctetString
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)
from pkcs11.util.ec import encode_named_curve_parameters

from hsmvault.hsm.mechanisms import Signing
from hsmvault.model.algorithms import Curve, KeySpec, KeyType
from hsmvault.model.errors import IntegrityFailure, TooLarge

PublicKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

_CURVES: Final[Mapping[Curve, ec.EllipticCurve]] = MappingProxyType(
    {
        Curve.P256: ec.SECP256R1(),
        Curve.P384: ec.SECP384R1(),
        Curve.P521: ec.SECP521R1(),
        Curve.P256K: ec.SECP256K1(),
    }
)

EC_PARAMS: Final[Mapping[Curve, bytes]] = MappingProxyType(
    {
        curve: encode_named_curve_parameters(known.name)
        for curve, known in _CURVES.items()
    }
)
"""CKA_EC_PARAMS of each curve: its object identifier, DER."""

PKCS1_LEAST: Final = 11
"""What PKCS #1 v1.5 adds at least (RFC 8017, 7.2.1)."""

_UNCOMPRESSED: Final = 4
# SEC 1, 2.3.3.

_LOADED: Final = 2048
# Reading a key back costs more than verifying with it.


@lru_cache(maxsize=_LOADED)
def load(public_key: bytes) -> PublicKey:
    """Read SubjectPublicKeyInfo, or raise IntegrityFailure: our records hold no other.

    The point of an EC key is checked to lie on its curve.
    """
    try:
        key = load_der_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise IntegrityFailure("a stored public key does not read as one") from error
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise IntegrityFailure("a stored public key is neither RSA nor EC")
    return key


def require_spec(public_key: bytes, spec: KeySpec) -> PublicKey:
    """Return the public key, if it is of this type, size and curve."""
    key = load(public_key)
    if isinstance(key, rsa.RSAPublicKey):
        fits = spec.type is KeyType.RSA and key.key_size == spec.bits
    else:
        fits = spec.curve is not None and key.curve.name == _CURVES[spec.curve].name
    if not fits:
        raise IntegrityFailure("a stored public key is not of type {spec}", spec=spec)
    return key


def of_rsa(modulus: bytes, exponent: bytes) -> bytes:
    """Return SubjectPublicKeyInfo from an RSA key's numbers."""
    e, n = int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
    return _der(rsa.RSAPublicNumbers(e, n).public_key())


def of_point(curve: Curve, point: bytes) -> bytes:
    """Return SubjectPublicKeyInfo from CKA_EC_POINT, or raise IntegrityFailure.

    The standard wraps the point in a DER OCTET STRING; some tokens leave that away. An
    uncompressed point begins with 4 and so does an OCTET STRING: the length tells.
    """
    bare = 1 + 2 * ((_CURVES[curve].key_size + 7) // 8)
    try:
        if len(point) != bare:
            point = OctetString.load(point, strict=True).native
        if len(point) != bare or point[0] != _UNCOMPRESSED:
            raise ValueError("neither compressed nor at infinity")
        key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVES[curve], point)
    except (ValueError, TypeError) as error:
        raise IntegrityFailure(
            "the token shows a public point that is none of curve {curve}", curve=curve
        ) from error
    return _der(key)


def _der(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verify(key: PublicKey, how: Signing, digest: bytes, signature: bytes) -> bool:
    """Tell whether `signature` over `digest` is the key's. ECDSA is raw r||s."""
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if how.rsa_padding is None:
                return False
            key.verify(signature, digest, how.rsa_padding, how.prehashed)
            return True
        half = (key.key_size + 7) // 8
        if len(signature) != 2 * half:
            return False
        r = int.from_bytes(signature[:half], "big")
        s = int.from_bytes(signature[half:], "big")
        key.verify(encode_dss_signature(r, s), digest, ec.ECDSA(how.prehashed))
    except InvalidSignature:
        return False
    return True


def encrypt(
    key: rsa.RSAPublicKey, hashed: hashes.HashAlgorithm | None, data: bytes
) -> bytes:
    """Encrypt with OAEP, or without a hash as PKCS #1 v1.5 has it; or raise TooLarge.

    The padding is random, and public keys keep no secret: the system's generator does.
    """
    size = (key.key_size + 7) // 8
    room = size - (2 * hashed.digest_size + 2 if hashed else PKCS1_LEAST)
    if len(data) > room:
        raise TooLarge(
            "{given} bytes do not fit; an RSA key of {bits} bits takes {room} here",
            given=len(data),
            bits=key.key_size,
            room=room,
        )
    if hashed is None:
        return key.encrypt(data, padding.PKCS1v15())
    return key.encrypt(data, padding.OAEP(padding.MGF1(hashed), hashed, None))
