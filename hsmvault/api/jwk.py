"""JSON Web Keys with their private parts, read strictly (RFC 7517, RFC 7518)."""

import base64
import binascii
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from hsmvault.api.material import CURVES, Read, of_bytes, of_ec, of_rsa
from hsmvault.model.algorithms import USES, Algorithm, Curve, KeySpec, Operation
from hsmvault.model.errors import KeyMaterialInvalid
from hsmvault.model.material import Plain

_CURVES: Final[Mapping[str, Curve]] = MappingProxyType(
    # RFC 8812 calls it secp256k1, Azure P-256K.
    {curve.value: curve for curve in Curve} | {"secp256k1": Curve.P256K}
)
_BY_USE: Final[Mapping[str, frozenset[Operation]]] = MappingProxyType(
    {
        "sig": frozenset({Operation.SIGN, Operation.VERIFY}),
        "enc": frozenset(Operation) - {Operation.SIGN, Operation.VERIFY},
    }
)


def read(raw: bytes) -> Read:
    """Read a private or secret JWK, or raise KeyMaterialInvalid."""
    try:
        fields = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        # Without its cause, which quotes the key.
        raise KeyMaterialInvalid(
            "the JWK does not read as JSON, each member once"
        ) from None
    if not isinstance(fields, dict):
        raise KeyMaterialInvalid("the JWK is not a JSON object")
    match fields.get("kty"):
        case "RSA":
            plain = _rsa(fields)
        case "EC":
            plain = _ec(fields)
        case "oct":
            plain = of_bytes(_octets(fields, "k"))
        case _:
            raise KeyMaterialInvalid("the JWK's kty is none of RSA, EC, oct")
    return Read(plain, _said(fields, plain.spec))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        # Which of them counts, two readers might decide differently.
        raise ValueError("a member occurs twice")
    return fields


def _octets(fields: Mapping[str, Any], name: str) -> bytes:
    text = fields.get(name)
    try:
        if not isinstance(text, str) or not text:
            raise ValueError
        raw = base64.b64decode(
            text + "=" * (-len(text) % 4), altchars=b"-_", validate=True
        )
        if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != text:
            raise ValueError
    except (ValueError, binascii.Error):
        raise KeyMaterialInvalid(
            "the JWK's {name} is missing, or not base64url without padding", name=name
        ) from None
    return raw


def _number(fields: Mapping[str, Any], name: str) -> int:
    raw = _octets(fields, name)
    if raw[0] == 0:
        raise KeyMaterialInvalid(
            "the JWK's {name} begins with a zero octet (RFC 7518, 2)", name=name
        )
    return int.from_bytes(raw, "big")


def _rsa(fields: Mapping[str, Any]) -> Plain:
    if "oth" in fields:
        raise KeyMaterialInvalid("RSA keys of more than two primes are not taken")
    names = ("p", "q", "d", "dp", "dq", "qi", "n", "e")
    return of_rsa(*(_number(fields, name) for name in names))


def _ec(fields: Mapping[str, Any]) -> Plain:
    curve = _CURVES.get(str(fields.get("crv")))
    if curve is None:
        raise KeyMaterialInvalid(
            "the JWK's crv is none of {known}", known=", ".join(_CURVES)
        )
    size = (CURVES[curve].key_size + 7) // 8
    parts = {name: _octets(fields, name) for name in ("x", "y", "d")}
    for name, raw in parts.items():
        if len(raw) != size:
            raise KeyMaterialInvalid(
                "the JWK's {name} has {given} octets; on {curve} it has {size}",
                name=name,
                given=len(raw),
                curve=curve,
                size=size,
            )
    x, y, d = (int.from_bytes(raw, "big") for raw in parts.values())
    return of_ec(curve, d, point=(x, y))


def _said(fields: Mapping[str, Any], spec: KeySpec) -> frozenset[Operation] | None:
    """Return what the JWK limits its own use to, or raise where it contradicts."""
    said: list[frozenset[Operation]] = []
    try:
        if "key_ops" in fields:
            said.append(frozenset(Operation(name) for name in fields["key_ops"]))
        if "use" in fields:
            said.append(_BY_USE[fields["use"]])
        if "alg" in fields:
            use = USES[Algorithm(fields["alg"])]
            suits = use.type is spec.type and use.bits in {0, spec.bits}
            if not suits or use.curve is not spec.curve:
                raise KeyMaterialInvalid(
                    "the JWK's alg is not one for a key of type {spec}", spec=spec
                )
            said.append(use.operations)
    except (ValueError, KeyError, TypeError):
        raise KeyMaterialInvalid(
            "the JWK's key_ops, use or alg is not one that the vault offers; leave it "
            "out, and say what the key is for in key.operations"
        ) from None
    if not said:
        return None
    common = frozenset.intersection(*said) & spec.operations
    if not common:
        raise KeyMaterialInvalid(
            "the JWK's key_ops, use and alg leave nothing that a key of type {spec} "
            "does",
            spec=spec,
        )
    return common
