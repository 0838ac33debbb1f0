"""How each algorithm of the vault is asked of a token: made once, shared by all."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from pkcs11.mechanisms import MGF, Mechanism

from hsmvault.model.algorithms import Algorithm

IV_BYTES: Final = 12
TAG_BYTES: Final = 16
MAC_BYTES: Final = 32

SIGNATURE_BYTES_MAX: Final = 512
"""RSA-4096's. python-pkcs11 clears 8 KiB for every call unless told how much to."""

KW_BLOCK: Final = 8
"""AES-KW takes multiples of this many bytes (RFC 3394) …"""
KW_LEAST: Final = 16
"""… and at least two of them."""


@dataclass(frozen=True, slots=True)
class Signing:
    """One way to sign a digest in the token, and to verify it outside."""

    mechanism: Mechanism
    prehashed: Prehashed
    digest: int
    """Length of the digest in bytes."""
    prefix: bytes = b""
    """What goes before the digest: the start of a DigestInfo for PKCS #1 v1.5."""
    parameter: tuple[Mechanism, MGF, int] | None = None
    rsa_padding: padding.PKCS1v15 | padding.PSS | None = None
    """For verifying RSA; None: ECDSA."""


@dataclass(frozen=True, slots=True)
class _Sha2:
    known: hashes.HashAlgorithm
    number: Mechanism
    mgf: MGF
    oid_end: int
    """Last arc of 2.16.840.1.101.3.4.2.x."""

    def pkcs1(self) -> Signing:
        size = self.known.digest_size
        # RFC 8017, 9.2, note 1: the DER of DigestInfo, up to the digest itself.
        prefix = bytes.fromhex(
            f"30{17 + size:02x}300d06096086480165030402{self.oid_end:02x}"
            f"050004{size:02x}"
        )
        return Signing(
            Mechanism.RSA_PKCS,
            Prehashed(self.known),
            size,
            prefix=prefix,
            rsa_padding=padding.PKCS1v15(),
        )

    def pss(self) -> Signing:
        size = self.known.digest_size
        # RFC 7518, 3.5: the salt is as long as the digest.
        return Signing(
            Mechanism.RSA_PKCS_PSS,
            Prehashed(self.known),
            size,
            parameter=(self.number, self.mgf, size),
            rsa_padding=padding.PSS(padding.MGF1(self.known), size),
        )

    def ecdsa(self) -> Signing:
        return Signing(Mechanism.ECDSA, Prehashed(self.known), self.known.digest_size)


_SHA256: Final = _Sha2(hashes.SHA256(), Mechanism.SHA256, MGF.SHA256, 1)
_SHA384: Final = _Sha2(hashes.SHA384(), Mechanism.SHA384, MGF.SHA384, 2)
_SHA512: Final = _Sha2(hashes.SHA512(), Mechanism.SHA512, MGF.SHA512, 3)

SIGNING: Final[Mapping[Algorithm, Signing]] = MappingProxyType(
    {
        Algorithm.RS256: _SHA256.pkcs1(),
        Algorithm.RS384: _SHA384.pkcs1(),
        Algorithm.RS512: _SHA512.pkcs1(),
        Algorithm.PS256: _SHA256.pss(),
        Algorithm.PS384: _SHA384.pss(),
        Algorithm.PS512: _SHA512.pss(),
        Algorithm.ES256: _SHA256.ecdsa(),
        Algorithm.ES256K: _SHA256.ecdsa(),
        Algorithm.ES384: _SHA384.ecdsa(),
        Algorithm.ES512: _SHA512.ecdsa(),
    }
)


MACS: Final[Mapping[Algorithm, tuple[Mechanism, int]]] = MappingProxyType(
    {
        Algorithm.HS256: (Mechanism.SHA256_HMAC, 32),
        Algorithm.HS384: (Mechanism.SHA384_HMAC, 48),
        Algorithm.HS512: (Mechanism.SHA512_HMAC, 64),
    }
)
"""The mechanism of each HMAC, and how many bytes it answers."""


@dataclass(frozen=True, slots=True)
class Oaep:
    """One way to encrypt to an RSA key."""

    known: hashes.HashAlgorithm
    parameter: tuple[Mechanism, MGF, None]


OAEP: Final[Mapping[Algorithm, Oaep]] = MappingProxyType(
    {
        # RFC 7518, 4.3, fixes SHA-1 here; OAEP does not lean on collisions.
        Algorithm.RSA_OAEP: Oaep(
            hashes.SHA1(),  # noqa: S303
            (Mechanism.SHA_1, MGF.SHA1, None),
        ),
        Algorithm.RSA_OAEP_256: Oaep(
            hashes.SHA256(), (Mechanism.SHA256, MGF.SHA256, None)
        ),
    }
)

RSA: Final = frozenset({*OAEP, Algorithm.RSA1_5})
"""What encrypts and wraps by an RSA key."""

KW: Final = frozenset({Algorithm.A128KW, Algorithm.A192KW, Algorithm.A256KW})
