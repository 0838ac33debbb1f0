"""What is decided about a use of a key, and which input it takes.

Every limit of the input is checked here, before the HSM is asked for anything.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hsmvault.model.algorithms import Algorithm, KeyType, Operation, Use, require_digest
from hsmvault.model.errors import InvalidRequest, TooLarge
from hsmvault.model.log import packed
from hsmvault.vault.ports import Material

DATA_MAX: Final = 64 * 1024
WRAP_MAX: Final = 4096
CONTEXT_MAX: Final = 64
"""Pairs in an encryption context."""
CONTEXT_TAG: Final = "hsmvault/encryption-context/v1"


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
    if aad and plan.material.spec.type is KeyType.RSA:
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


def require_fits(plan: Plan, plaintext: bytes, *, most: int) -> None:
    """Raise TooLarge for a plaintext that the key does not take."""
    spec = plan.material.spec
    if spec.type is KeyType.RSA:
        digest = 32 if plan.algorithm is Algorithm.RSA_OAEP_256 else 20
        most = spec.bits // 8 - 2 * digest - 2
    if len(plaintext) > most:
        raise TooLarge(
            "{algorithm} with a key of type {spec} takes at most {most} bytes, not "
            "{given}; encrypt the data with a data key: hsmvault data-key generate",
            algorithm=plan.algorithm,
            spec=spec,
            most=most,
            given=len(plaintext),
        )


def require_wrappable(plan: Plan, plaintext: bytes) -> None:
    """Raise for what the key does not wrap."""
    length = len(plaintext)
    if not length:
        raise InvalidRequest("plaintext is empty; there is nothing to wrap")
    if plan.material.spec.type is not KeyType.RSA and (length % 8 or length < 16):  # noqa: PLR2004
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
    if len(context) > CONTEXT_MAX:
        raise TooLarge(
            "an encryption_context of {given} pairs is more than {most}",
            given=len(context),
            most=CONTEXT_MAX,
        )
    if "" in context:
        raise InvalidRequest("a name in encryption_context is empty")
    pairs = sorted((name.encode(), value) for name, value in context.items())
    return packed(CONTEXT_TAG, *(part for pair in pairs for part in pair))
