"""What the two ends of a ceremony say to each other, and what each of them signs.

OAEP authenticates nobody: anyone can wrap something for a public key, and anyone can
make a public key. So the destination signs what it asks for, and the source signs what
it gives, each with the identity key of its partition, over everything that matters.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, utils
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hsmvault.hsm import labels
from hsmvault.model.errors import IntegrityFailure, InvalidRequest
from hsmvault.model.log import packed

TRANSPORT_BITS: Final = 3072
_EXPONENT: Final = 65537


class Carried(StrEnum):
    """What a ceremony carries from one partition to another."""

    REGION_KEY = "region-key"
    INTEGRITY = "integrity"
    PAIR_OUT = "pair-out"
    """The sender's half of a pair key, to another partition of the sender."""
    PAIR_IN = "pair-in"
    """The receiver's half, to a partition of the receiver."""


@dataclass(frozen=True, slots=True)
class Context:
    """Which key goes from where to where. Both ends sign all of it."""

    vault: str
    from_region: str
    from_partition: str
    to_region: str
    to_partition: str
    purpose: Carried
    label: str
    """The key, by its label in both tokens."""
    epoch: int = 0
    nonce: str = ""
    """Made by the destination, so that an answer fits one offer only."""

    @classmethod
    def read(cls, fields: Any) -> Self:
        """Read one from a message, or raise InvalidRequest; and require it lawful."""
        known = {f.name for f in dataclasses.fields(cls)}
        try:
            given: dict[str, Any] = dict(fields)
            texts = {k: str(given[k]) for k in known - {"epoch", "nonce", "purpose"}}
            context = cls(
                **texts,
                purpose=Carried(given["purpose"]),
                epoch=int(given.get("epoch", 0)),
                nonce=str(given.get("nonce", "")),
            )
        except (TypeError, ValueError, KeyError) as error:
            raise InvalidRequest("malformed context of a ceremony") from error
        if set(given) - known:
            raise InvalidRequest("unknown fields in the context of a ceremony")
        context.require_lawful()
        return context

    def require_lawful(self) -> None:
        """Refuse to carry a key to where it must never be.

        A region's own keys stay in the region. A pair key goes, for opening, to its
        receiver alone, and for wrapping never leaves its sender.
        """
        if self.label not in self._lawful_labels():
            raise InvalidRequest(
                "{label!r} cannot go from {source} to {destination} as {purpose}",
                label=self.label[:100],
                source=self.from_region,
                destination=self.to_region,
                purpose=self.purpose,
            )

    def _lawful_labels(self) -> set[str]:
        here = self.from_region == self.to_region
        match self.purpose:
            case Carried.REGION_KEY:
                return {labels.region_key(self.to_region)} if here else set()
            case Carried.INTEGRITY:
                return {labels.integrity_key(self.to_region)} if here else set()
            case Carried.PAIR_OUT:
                sender, _ = labels.pair_of(self.label)
                return {self.label} if here and sender == self.to_region else set()
            case Carried.PAIR_IN:
                sender, receiver = labels.pair_of(self.label)
                ours = receiver == self.to_region and self.from_region in {
                    sender,
                    receiver,
                }
                return {self.label} if ours else set()

    def wire(self) -> dict[str, object]:
        """Return it as a message carries it."""
        return dataclasses.asdict(self)

    def packed(self) -> bytes:
        """Return its canonical bytes, for transcripts."""
        return packed(
            *(
                value if isinstance(value, int) else str(value)
                for value in self.wire().values()
            )
        )


@dataclass(frozen=True, slots=True)
class Offer:
    """The destination's half: wrap that key for this public key."""

    context: Context
    public_key: bytes
    """SubjectPublicKeyInfo (DER) of the RSA key whose other half is in the token."""
    signature: bytes = b""

    def statement(self) -> bytes:
        """Return the bytes that the destination's identity key signs."""
        return packed(
            "hsmvault/ceremony/offer/v1", self.context.packed(), self.public_key
        )

    def wire(self) -> dict[str, object]:
        """Return it as a message carries it."""
        return {
            "context": self.context.wire(),
            "public_key": self.public_key.hex(),
            "signature": self.signature.hex(),
        }

    @classmethod
    def read(cls, fields: object) -> Self:
        """Read one from a message, or raise InvalidRequest."""
        context, (key, signature) = _read(fields, "public_key", "signature")
        return cls(context, key, signature)


@dataclass(frozen=True, slots=True)
class Answer:
    """The source's half: the key, wrapped for the public key of the offer."""

    context: Context
    wrapped: bytes = dataclasses.field(repr=False)
    digest: bytes
    """SHA-256 of the key, by C_DigestKey in the source's token."""
    signature: bytes = b""

    def statement(self, public_key: bytes) -> bytes:
        """Return the bytes that the source's identity key signs."""
        return packed(
            "hsmvault/ceremony/answer/v1",
            self.context.packed(),
            public_key,
            self.wrapped,
            self.digest,
        )

    def wire(self) -> dict[str, object]:
        """Return it as a message carries it."""
        return {
            "context": self.context.wire(),
            "wrapped": self.wrapped.hex(),
            "digest": self.digest.hex(),
            "signature": self.signature.hex(),
        }

    @classmethod
    def read(cls, fields: object) -> Self:
        """Read one from a message, or raise InvalidRequest."""
        context, values = _read(fields, "wrapped", "digest", "signature")
        return cls(context, *values)


def _read(fields: object, *names: str) -> tuple[Context, list[bytes]]:
    if not isinstance(fields, Mapping):
        raise InvalidRequest("a message of a ceremony is not an object")
    try:
        values = [bytes.fromhex(fields[name]) for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest("malformed message of a ceremony") from error
    return Context.read(fields.get("context")), values


def require_signed(
    statement: bytes, signature: bytes, identity: bytes, *, by: str
) -> None:
    """Refuse what the identity key did not sign (ECDSA P-256, SHA-256, raw r‖s)."""
    half = len(signature) // 2
    try:
        key = load_der_public_key(identity)
        if not isinstance(key, ec.EllipticCurvePublicKey) or half != 32:  # noqa: PLR2004
            raise InvalidSignature
        key.verify(
            utils.encode_dss_signature(
                int.from_bytes(signature[:half]), int.from_bytes(signature[half:])
            ),
            statement,
            ec.ECDSA(hashes.SHA256()),
        )
    except (InvalidSignature, ValueError) as error:
        raise IntegrityFailure(
            "a message of the ceremony is not signed by the identity key of {by}; "
            "compare the fingerprints of both regions before trying again",
            by=by,
        ) from error


def digest_of(statement: bytes) -> bytes:
    """Return what CKM_ECDSA signs."""
    return hashlib.sha256(statement).digest()


def rsa_numbers(public_key: bytes) -> tuple[bytes, bytes]:
    """Return modulus and exponent of a transport key that is strong enough."""
    try:
        key = load_der_public_key(public_key)
    except ValueError as error:
        raise InvalidRequest("the offer's public key is malformed") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < TRANSPORT_BITS:
        raise InvalidRequest(
            "the offer's public key must be RSA with at least {bits} bits",
            bits=TRANSPORT_BITS,
        )
    numbers = key.public_numbers()
    if numbers.e != _EXPONENT:
        raise InvalidRequest("the offer's public key has an unusual exponent")
    return numbers.n.to_bytes(key.key_size // 8), numbers.e.to_bytes(3)


def rsa_spki(modulus: bytes, exponent: bytes) -> bytes:
    """Return SubjectPublicKeyInfo (DER) of an RSA key."""
    numbers = rsa.RSAPublicNumbers(int.from_bytes(exponent), int.from_bytes(modulus))
    return numbers.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


_P256_SPKI: Final = bytes.fromhex(
    "3059301306072a8648ce3d020106082a8648ce3d030107034200"
)
_P256_POINT: Final = bytes.fromhex("0441")
# A DER OCTET STRING of 65 bytes, as CKA_EC_POINT has it.


def p256_spki(ec_point: bytes) -> bytes:
    """Return SubjectPublicKeyInfo (DER) of a P-256 key, from CKA_EC_POINT."""
    return _P256_SPKI + ec_point.removeprefix(_P256_POINT)
