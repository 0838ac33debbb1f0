"""PKCS #8 private keys, read strictly (RFC 5958, RFC 5208)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from asn1crypto import pem
from asn1crypto.keys import PrivateKeyInfo
from cryptography.hazmat.primitives.asymmetric import ec

from hsmvault.api.material import CURVES, Read, of_ec, of_rsa, off_curve
from hsmvault.model.algorithms import Curve
from hsmvault.model.errors import KeyMaterialInvalid
from hsmvault.model.material import Plain

_NAMED: Final[Mapping[str, Curve]] = MappingProxyType(
    {known.name: curve for curve, known in CURVES.items()}
)


def read(raw: bytes) -> Read:
    """Read a PKCS #8 private key, DER or PEM, or raise KeyMaterialInvalid."""
    try:
        info = PrivateKeyInfo.load(_unarmored(raw), strict=True)
        kind = info["private_key_algorithm"]["algorithm"].native
        fields = info["private_key"].parsed.native
        curve = _named_curve(info) if kind == "ec" else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise KeyMaterialInvalid(
            "the key does not read as PKCS #8, not encrypted; to convert one: openssl "
            "pkcs8 -topk8 -nocrypt"
        ) from None
    if kind == "rsa":
        return Read(_rsa(fields))
    if curve is not None:
        return Read(_ec(curve, fields))
    raise KeyMaterialInvalid(
        "the key is neither RSA nor EC on one of {known}",
        known=", ".join(Curve),
    )


def _unarmored(raw: bytes) -> bytes:
    if not raw.lstrip().startswith(b"-----"):
        return raw
    blocks = list(pem.unarmor(raw, multiple=True))
    if len(blocks) != 1 or blocks[0][0] != "PRIVATE KEY":
        raise KeyMaterialInvalid(
            "the PEM is not one block, PRIVATE KEY; to convert a key: openssl pkcs8 "
            "-topk8 -nocrypt"
        )
    der: bytes = blocks[0][2]
    return der


def _named_curve(info: Any) -> Curve | None:
    parameters = info["private_key_algorithm"]["parameters"]
    return _NAMED.get(parameters.native) if parameters.name == "named" else None


def _rsa(fields: Mapping[str, Any]) -> Plain:
    if fields["version"] != "two-prime":
        raise KeyMaterialInvalid("RSA keys of more than two primes are not taken")
    names = (
        "prime1",
        "prime2",
        "private_exponent",
        "exponent1",
        "exponent2",
        "coefficient",
        "modulus",
        "public_exponent",
    )
    return of_rsa(*(int(fields[name]) for name in names))


def _ec(curve: Curve, fields: Mapping[str, Any]) -> Plain:
    if fields["parameters"] not in {None, CURVES[curve].name}:
        raise KeyMaterialInvalid("the EC key names two curves")
    point = fields["public_key"]
    if point is None:
        return of_ec(curve, int(fields["private_key"]))
    known = CURVES[curve]
    try:
        numbers = ec.EllipticCurvePublicKey.from_encoded_point(known, point)
    except ValueError:
        raise off_curve(curve) from None
    given = numbers.public_numbers()
    return of_ec(curve, int(fields["private_key"]), point=(given.x, given.y))
