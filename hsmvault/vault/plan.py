"""What is decided about a use of a key, and which input it takes.

Every limit of the input is checked here, before the HSM is asked for anything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from hsmvault.model.algorithms import (
    CBC,
    CBC_PAD,
    GCM,
    Algorithm,
    KeyType,
    Operation,
    Use,
    require_digest,
)
from hsmvault.model.errors import CiphertextInvalid, InvalidRequest, TooLarge
from hsmvault.model.log import packed
from hsmvault.vault.ports import Material, Sealed

DATA_MAX: Final = 64 * 1024
WRAP_MAX: Final = 4096
_CHAINED: Final = CBC | CBC_PAD
CONTEXT_MAX: Final = 64
"""Pairs in an encryption context."""
CONTEXT_TAG: Final = "hsmvault/encryption-context/v1"
WRAP_TAG: Final = "hsmvault/wrapped-key/v1"
_RESERVED: Final = packed(WRAP_TAG)
IV_BYTES: Final = 12
TAG_BYTES: Final = 16
BLOCK: Final = 16
"""AES's, in bytes: a CBC ciphertext has whole ones, and an IV of one."""
_RSA_ADDS: Final[Mapping[Algorithm, int]] = MappingProxyType(
    {
        Algorithm.RSA_OAEP: 2 * 20 + 2,
        Algorithm.RSA_OAEP_256: 2 * 32 + 2,
        Algorithm.RSA1_5: 11,
    }
)
"""Bytes that the padding takes at least (RFC 8017, 7.1.1 and 7.2.1)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided about using one version by one algorithm."""

    name: str
    """Of the version, as it is answered."""
    material: Material
    algorithm: Algorithm
    operation: Operation
    use: Use
    not_before_ms: int
    expire_ms: int
    create_ms: int = 0
    """When the version was made."""
    legacy: bool = False
    """Whether the vault's settings must allow the algorithm."""


def signable(plan: Plan, digest: bytes, data: bytes) -> bytes:
    """Return what is signed: the digest, or for HS* the data. Only one fits."""
    if plan.use.digest:
        if data:
            raise InvalidRequest(
                "{algorithm} signs a digest; give it as digest, not data",
                algorithm=plan.algorithm,
            )
        require_digest(plan.algorithm, plan.use, digest)
        return digest
    if digest or not data:
        raise InvalidRequest(
            "{algorithm} takes what is to be authenticated as data, not a digest",
            algorithm=plan.algorithm,
        )
    if len(data) > DATA_MAX:
        raise TooLarge(
            "data of {given} bytes is more than {most}; authenticate a digest of it",
            given=len(data),
            most=DATA_MAX,
        )
    return data


def require_aad(plan: Plan, aad: bytes) -> None:
    """Raise unless the algorithm takes associated data, and so much of it."""
    if not aad:
        return
    if plan.algorithm not in GCM:
        raise InvalidRequest(
            "{algorithm} takes no additional_authenticated_data and no "
            "encryption_context; use A*GCM",
            algorithm=plan.algorithm,
        )
    if len(aad) > DATA_MAX:
        raise TooLarge(
            "additional_authenticated_data of {given} bytes is more than {most}",
            given=len(aad),
            most=DATA_MAX,
        )
    if aad.startswith(_RESERVED):
        # Else Decrypt would open what WrapKey made, for who may not unwrap.
        raise InvalidRequest(
            "additional_authenticated_data may not begin with {tag!r}: by that, "
            "wrapped keys are told from other ciphertexts",
            tag=WRAP_TAG,
        )


def wrapping_aad(plan: Plan, context: Mapping[str, str]) -> bytes:
    """Return what a wrapped key is bound to; nothing but by A*GCM.

    Never what Encrypt binds to, so neither opens what the other made.
    """
    if plan.algorithm not in GCM:
        if context:
            raise InvalidRequest(
                "{algorithm} binds a wrapped key to nothing; use A*GCM for an "
                "encryption_context",
                algorithm=plan.algorithm,
            )
        return b""
    aad = packed(WRAP_TAG, *_parts(context))
    if len(aad) > DATA_MAX:
        raise TooLarge(
            "an encryption_context of {given} bytes is more than {most}",
            given=len(aad),
            most=DATA_MAX,
        )
    return aad


def require_fits(plan: Plan, plaintext: bytes, *, most: int) -> None:
    """Raise TooLarge, or InvalidRequest, for a plaintext that the key does not take."""
    spec = plan.material.spec
    if spec.type is KeyType.RSA:
        most = spec.bits // 8 - _RSA_ADDS[plan.algorithm]
    if len(plaintext) > most:
        raise TooLarge(
            "{algorithm} with a key of type {spec} takes at most {most} bytes, not "
            "{given}; encrypt the data with a data key: hsmvault crypto data-key",
            algorithm=plan.algorithm,
            spec=spec,
            most=most,
            given=len(plaintext),
        )

    if plan.algorithm in CBC and (not plaintext or len(plaintext) % BLOCK):
        raise InvalidRequest(
            "{algorithm} encrypts multiples of {block} bytes, not {given}; "
            "{algorithm}PAD pads",
            algorithm=plan.algorithm,
            block=BLOCK,
            given=len(plaintext),
        )


def require_sealed(plan: Plan, sealed: Sealed, otherwise: str) -> None:
    """Raise CiphertextInvalid for what the algorithm cannot have made."""
    length = len(sealed.ciphertext)
    # Padding may have made it longer than any plaintext.
    if length > DATA_MAX + BLOCK:
        raise TooLarge(
            "a ciphertext of {given} bytes is more than {most}",
            given=length,
            most=DATA_MAX + BLOCK,
        )
    lengths = (len(sealed.iv), len(sealed.tag))
    if plan.algorithm in GCM:
        fits = lengths == (IV_BYTES, TAG_BYTES) and length <= DATA_MAX
    elif plan.algorithm in _CHAINED:
        fits = lengths == (BLOCK, 0) and length > 0 and not length % BLOCK
    else:
        fits = lengths == (0, 0) and length * 8 == plan.material.spec.bits
    if not fits:
        raise CiphertextInvalid(otherwise, name=plan.name)


def require_wrappable(plan: Plan, plaintext: bytes) -> None:
    """Raise for what the key does not wrap."""
    length = len(plaintext)
    if not length:
        raise InvalidRequest("plaintext is empty; there is nothing to wrap")
    blocks = plan.material.spec.type is not KeyType.RSA and plan.algorithm not in GCM
    if blocks and (length % 8 or length < 16):  # noqa: PLR2004
        raise InvalidRequest(
            "{algorithm} wraps multiples of 8 bytes, 16 to {most}, not {given}",
            algorithm=plan.algorithm,
            most=WRAP_MAX,
            given=length,
        )
    require_fits(plan, plaintext, most=WRAP_MAX)


def context_aad(context: Mapping[str, str]) -> bytes:
    """Return the one form of an encryption context that is authenticated.

    The tag, then each name and its value, ordered by the names' bytes in UTF-8, each
    part after its length in four bytes, big-endian. So the order in which a caller
    names the pairs does not matter, and no two contexts give the same bytes.
    """
    return packed(CONTEXT_TAG, *_parts(context))


def _parts(context: Mapping[str, str]) -> Iterator[bytes | str]:
    if len(context) > CONTEXT_MAX:
        raise TooLarge(
            "an encryption_context of {given} pairs is more than {most}",
            given=len(context),
            most=CONTEXT_MAX,
        )
    if "" in context:
        raise InvalidRequest("a name in encryption_context is empty")
    pairs = sorted((name.encode(), value) for name, value in context.items())
    return (part for pair in pairs for part in pair)
