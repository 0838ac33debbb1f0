"""Keys that come from outside, made by `cryptography` alone, and blobs of them."""

import base64
import json
import secrets
from functools import cache
from typing import Any, Final, TypeAlias

from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from hsmvault.model.algorithms import Curve, KeySpec, KeyType
from hsmvault.model.material import Blob, Plain

Outside: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes

CURVES: Final = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
    Curve.P256K: ec.SECP256K1(),
}


@cache
def outside(spec: KeySpec, number: int = 0) -> Outside:
    """A key of this type and size from outside; another one by another number."""
    if spec.type is KeyType.RSA:
        return rsa.generate_private_key(65537, spec.bits)
    if spec.curve is not None:
        return ec.generate_private_key(CURVES[spec.curve])
    return secrets.token_bytes(spec.bits // 8)


def secret_of(key: Outside) -> bytes:
    """What travels of it: PKCS #8, or the bytes themselves."""
    if isinstance(key, bytes):
        return key
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def public_of(key: Outside) -> bytes:
    """Its public half, SubjectPublicKeyInfo; nothing for bytes."""
    if isinstance(key, bytes):
        return b""
    return key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def in_the_clear(spec: KeySpec, key: Outside) -> Plain:
    """The key as it comes over TLS."""
    return Plain(spec, public_of(key), secret_of(key))


def wrapped(wrapping_key: bytes, secret: bytes, carrier: bytes = b"") -> bytes:
    """CKM_RSA_AES_KEY_WRAP: by hand, for a SubjectPublicKeyInfo."""
    half = load_der_public_key(wrapping_key)
    assert isinstance(half, rsa.RSAPublicKey)
    carrier = carrier or secrets.token_bytes(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
    return half.encrypt(carrier, oaep) + keywrap.aes_key_wrap_with_padding(
        carrier, secret
    )


def blob(wrapping_key: bytes, spec: KeySpec, key: Outside) -> Blob:
    """The key under an import's wrapping key."""
    return Blob(spec, public_of(key), wrapped(wrapping_key, secret_of(key)))


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def jwk_of(key: Outside, **more: Any) -> bytes:
    """The key as a JWK, by hand."""
    fields: dict[str, Any] = {"kty": "oct"}
    if isinstance(key, bytes):
        fields["k"] = b64(key)
    elif isinstance(key, rsa.RSAPrivateKey):
        n = key.private_numbers()
        fields = {"kty": "RSA", "n": n.public_numbers.n, "e": n.public_numbers.e}
        fields |= {"d": n.d, "p": n.p, "q": n.q}
        fields |= {"dp": n.dmp1, "dq": n.dmq1, "qi": n.iqmp}
        fields = {k: v if k == "kty" else number(v) for k, v in fields.items()}
    else:
        numbers = key.private_numbers()
        size = (key.curve.key_size + 7) // 8
        names = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
        point = numbers.public_numbers
        parts = {"x": point.x, "y": point.y, "d": numbers.private_value}
        fields = {"kty": "EC", "crv": names.get(key.curve.name, "secp256k1")}
        fields |= {name: b64(value.to_bytes(size)) for name, value in parts.items()}
    return json.dumps(fields | more).encode()
