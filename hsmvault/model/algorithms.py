"""What each algorithm is for, and its sizes. JOSE names (RFC 7518, RFC 8812).

An algorithm belongs to one type of key and, for EC and AES, to one size. Digest
lengths are in bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hsmvault.model.errors import (
    AlgorithmUnsupported,
    DigestInvalid,
    InvalidRequest,
    NotSupported,
)


class KeyType(StrEnum):
    """The types of key that a partition makes."""

    RSA = "RSA"
    EC = "EC"
    OCT = "oct"


class Curve(StrEnum):
    """The curves of EC keys, by their JOSE names."""

    P256 = "P-256"
    P384 = "P-384"
    P521 = "P-521"
    P256K = "P-256K"


class Operation(StrEnum):
    """What a key may be used for: Azure's key_ops."""

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    SIGN = "sign"
    VERIFY = "verify"
    WRAP_KEY = "wrapKey"
    UNWRAP_KEY = "unwrapKey"


SIZES: Final[Mapping[KeyType, tuple[int, ...]]] = MappingProxyType(
    {
        KeyType.RSA: (2048, 3072, 4096),
        KeyType.OCT: (128, 192, 256, 384, 512),
        KeyType.EC: (256, 384, 521),
    }
)
"""Sizes in bits. An EC key's size follows from its curve.

An oct key is for AES at 128 and 192 bits, for HMAC at 384 and 512, and at 256 for the
one or the other, as its operations say.
"""

_OKP: Final = "OKP"
# RFC 8037's type of Ed25519 keys.

CURVE_BITS: Final[Mapping[Curve, int]] = MappingProxyType(
    {Curve.P256: 256, Curve.P256K: 256, Curve.P384: 384, Curve.P521: 521}
)


@dataclass(frozen=True, slots=True)
class KeySpec:
    """Type and size of a key: all that is fixed when its material is made."""

    type: KeyType
    bits: int
    curve: Curve | None = None

    @classmethod
    def of(cls, kind: str, *, bits: int = 0, curve: str = "") -> "KeySpec":
        """Check a request's type, size and curve. Zero and "" take the default.

        Raises InvalidRequest. Defaults: RSA 3072 bit, EC P-256, oct 256 bit.
        """
        if kind == _OKP:
            raise NotSupported(
                "keys of type {type} (Ed25519) are not made: what tokens such as "
                "SoftHSM 2.6.1 make of them cannot be wrapped, so no other partition "
                "or region would hold them; use EC P-256 with ES256",
                type=kind,
            )
        try:
            key_type = KeyType(kind)
        except ValueError as error:
            raise InvalidRequest(
                "unknown key type {kind!r}; known are {known}",
                kind=kind[:50],
                known=", ".join(KeyType),
            ) from error
        if key_type is KeyType.EC:
            return cls._of_curve(curve or Curve.P256, bits)
        if curve:
            raise InvalidRequest("a key of type {type} has no curve", type=key_type)
        size = bits or {KeyType.RSA: 3072, KeyType.OCT: 256}[key_type]
        if size not in SIZES[key_type]:
            raise InvalidRequest(
                "{type} keys of {bits} bits are not offered; choose {known}",
                type=key_type,
                bits=size,
                known=", ".join(map(str, SIZES[key_type])),
            )
        return cls(key_type, size)

    @classmethod
    def _of_curve(cls, curve: str, bits: int) -> "KeySpec":
        try:
            known = Curve(curve)
        except ValueError as error:
            raise InvalidRequest(
                "unknown curve {curve!r}; known are {known}",
                curve=curve[:50],
                known=", ".join(Curve),
            ) from error
        if bits not in {0, CURVE_BITS[known]}:
            raise InvalidRequest(
                "curve {curve} has {own} bits, not {bits}",
                curve=known,
                own=CURVE_BITS[known],
                bits=bits,
            )
        return cls(KeyType.EC, CURVE_BITS[known], known)

    @property
    def operations(self) -> frozenset[Operation]:
        """Everything that a key of this type and size can be used for.

        Not all at once: see `require_one_role`.
        """
        if self.type is not KeyType.OCT:
            return OPERATIONS[self.type]
        return frozenset(
            operation
            for use in USES.values()
            if use.type is KeyType.OCT and use.bits == self.bits
            for operation in use.operations
        )

    @property
    def default_operations(self) -> frozenset[Operation]:
        """What a key is for whose maker did not say: of oct-256, what AES does."""
        if self.type is not KeyType.OCT:
            return self.operations
        return (self.operations - _SIGNING) or self.operations

    def __str__(self) -> str:
        return str(self.curve) if self.curve else f"{self.type}-{self.bits}"


OPERATIONS: Final[Mapping[KeyType, frozenset[Operation]]] = MappingProxyType(
    {
        KeyType.RSA: frozenset(Operation),
        KeyType.EC: frozenset({Operation.SIGN, Operation.VERIFY}),
        KeyType.OCT: frozenset(
            {
                Operation.ENCRYPT,
                Operation.DECRYPT,
                Operation.WRAP_KEY,
                Operation.UNWRAP_KEY,
                Operation.SIGN,
                Operation.VERIFY,
            }
        ),
    }
)
"""What keys of a type do; of oct keys, not every size does all."""


class Algorithm(StrEnum):
    """The algorithms of the vault, by their JOSE names."""

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    ES256K = "ES256K"
    HS256 = "HS256"
    HS384 = "HS384"
    HS512 = "HS512"
    RSA_OAEP = "RSA-OAEP"
    RSA_OAEP_256 = "RSA-OAEP-256"
    A128GCM = "A128GCM"
    A192GCM = "A192GCM"
    A256GCM = "A256GCM"
    A128KW = "A128KW"
    A192KW = "A192KW"
    A256KW = "A256KW"
    A128CBC = "A128CBC"
    A192CBC = "A192CBC"
    A256CBC = "A256CBC"
    A128CBCPAD = "A128CBCPAD"
    A192CBCPAD = "A192CBCPAD"
    A256CBCPAD = "A256CBCPAD"
    RSA1_5 = "RSA1_5"


_SIGNING: Final = frozenset({Operation.SIGN, Operation.VERIFY})
_ENCRYPTING: Final = frozenset({Operation.ENCRYPT, Operation.DECRYPT})
_WRAPPING: Final = frozenset({Operation.WRAP_KEY, Operation.UNWRAP_KEY})


@dataclass(frozen=True, slots=True)
class Use:
    """What one algorithm needs of a key, and of its input."""

    type: KeyType
    operations: frozenset[Operation]
    bits: int = 0
    """The only size it works with; 0: any size of the type."""
    curve: Curve | None = None
    digest: int = 0
    """Length of the digest to sign, in bytes; 0: it signs the data, as HMAC does."""


USES: Final[Mapping[Algorithm, Use]] = MappingProxyType(
    {
        Algorithm.RS256: Use(KeyType.RSA, _SIGNING, digest=32),
        Algorithm.RS384: Use(KeyType.RSA, _SIGNING, digest=48),
        Algorithm.RS512: Use(KeyType.RSA, _SIGNING, digest=64),
        Algorithm.PS256: Use(KeyType.RSA, _SIGNING, digest=32),
        Algorithm.PS384: Use(KeyType.RSA, _SIGNING, digest=48),
        Algorithm.PS512: Use(KeyType.RSA, _SIGNING, digest=64),
        Algorithm.ES256: Use(KeyType.EC, _SIGNING, 256, Curve.P256, 32),
        Algorithm.ES384: Use(KeyType.EC, _SIGNING, 384, Curve.P384, 48),
        Algorithm.ES512: Use(KeyType.EC, _SIGNING, 521, Curve.P521, 64),
        Algorithm.ES256K: Use(KeyType.EC, _SIGNING, 256, Curve.P256K, 32),
        # RFC 7518, 3.2, wants the key as long as the hash; longer ones gain nothing.
        Algorithm.HS256: Use(KeyType.OCT, _SIGNING, 256),
        Algorithm.HS384: Use(KeyType.OCT, _SIGNING, 384),
        Algorithm.HS512: Use(KeyType.OCT, _SIGNING, 512),
        Algorithm.RSA_OAEP: Use(KeyType.RSA, _ENCRYPTING | _WRAPPING),
        Algorithm.RSA_OAEP_256: Use(KeyType.RSA, _ENCRYPTING | _WRAPPING),
        Algorithm.A128GCM: Use(KeyType.OCT, _ENCRYPTING | _WRAPPING, 128),
        Algorithm.A192GCM: Use(KeyType.OCT, _ENCRYPTING | _WRAPPING, 192),
        Algorithm.A256GCM: Use(KeyType.OCT, _ENCRYPTING | _WRAPPING, 256),
        Algorithm.A128KW: Use(KeyType.OCT, _WRAPPING, 128),
        Algorithm.A192KW: Use(KeyType.OCT, _WRAPPING, 192),
        Algorithm.A256KW: Use(KeyType.OCT, _WRAPPING, 256),
        Algorithm.A128CBC: Use(KeyType.OCT, _ENCRYPTING, 128),
        Algorithm.A192CBC: Use(KeyType.OCT, _ENCRYPTING, 192),
        Algorithm.A256CBC: Use(KeyType.OCT, _ENCRYPTING, 256),
        Algorithm.A128CBCPAD: Use(KeyType.OCT, _ENCRYPTING, 128),
        Algorithm.A192CBCPAD: Use(KeyType.OCT, _ENCRYPTING, 192),
        Algorithm.A256CBCPAD: Use(KeyType.OCT, _ENCRYPTING, 256),
        Algorithm.RSA1_5: Use(KeyType.RSA, _ENCRYPTING | _WRAPPING),
    }
)

GCM: Final = frozenset({Algorithm.A128GCM, Algorithm.A192GCM, Algorithm.A256GCM})
"""Authenticated, bound to associated data, and counted (NIST SP 800-38D, 8.3)."""

CBC: Final = frozenset({Algorithm.A128CBC, Algorithm.A192CBC, Algorithm.A256CBC})
"""Whole blocks of 16 bytes, as they are."""

CBC_PAD: Final = frozenset(
    {Algorithm.A128CBCPAD, Algorithm.A192CBCPAD, Algorithm.A256CBCPAD}
)
"""The same, padded to whole blocks (RFC 5652, 6.3)."""

LEGACY: Final = CBC | CBC_PAD | {Algorithm.RSA1_5}
"""What the vault does only where its `legacy_algorithms` name it: CBC says nothing of
who made a ciphertext, and PKCS #1 v1.5 is where padding oracles come from."""


def require_one_role(spec: KeySpec, operations: frozenset[Operation]) -> None:
    """Raise InvalidRequest if an oct key shall both MAC and do AES.

    The same bytes under two algorithms are a key with two roles: what one of them
    answers is input to attack the other.
    """
    if spec.type is not KeyType.OCT:
        return
    macs, rest = operations & _SIGNING, operations - _SIGNING
    if macs and rest:
        raise InvalidRequest(
            "an oct key either does {macs} (HMAC) or {rest} (AES), never both; make "
            "a key for each",
            macs=", ".join(sorted(macs)),
            rest=", ".join(sorted(rest)),
        )


def parse_algorithm(name: str) -> Algorithm:
    """Know the algorithm, or raise AlgorithmUnsupported naming those we offer."""
    try:
        return Algorithm(name)
    except ValueError as error:
        raise AlgorithmUnsupported(
            "unknown algorithm {name!r}; known are {known}",
            name=name[:50],
            known=", ".join(a for a in Algorithm if a not in LEGACY),
        ) from error


def require_suits(algorithm: Algorithm, spec: KeySpec, operation: Operation) -> Use:
    """Return what the algorithm needs, or raise AlgorithmUnsupported."""
    use = USES[algorithm]
    if (
        use.type is not spec.type
        or operation not in use.operations
        or (use.bits and use.bits != spec.bits)
        or use.curve is not spec.curve
    ):
        offered = [
            a
            for a, u in USES.items()
            if u.type is spec.type
            and operation in u.operations
            and u.bits in {0, spec.bits}
            and u.curve is spec.curve
            and a not in LEGACY
        ]
        raise AlgorithmUnsupported(
            "{algorithm} does not {operation} with a key of type {spec}; use {offered}",
            algorithm=algorithm,
            operation=operation,
            spec=spec,
            offered=", ".join(offered) or "another key",
        )
    return use


def require_digest(algorithm: Algorithm, use: Use, digest: bytes) -> None:
    """Raise DigestInvalid unless the digest has the length that its hash makes."""
    if len(digest) != use.digest:
        raise DigestInvalid(
            "{algorithm} signs a digest of {wanted} bytes, not {given}",
            algorithm=algorithm,
            wanted=use.digest,
            given=len(digest),
        )
