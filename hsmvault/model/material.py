"""Key material on its way between the vault and a partition: always wrapped."""

from dataclasses import dataclass, field

from hsmvault.model.algorithms import KeySpec
from hsmvault.model.stored import WrappedKey


@dataclass(frozen=True, slots=True)
class Generated:
    """Fresh material: wrapped for every region asked for, and its public half."""

    wrapped: tuple[WrappedKey, ...]
    public_key: bytes
    """SubjectPublicKeyInfo, DER; empty for oct keys."""


@dataclass(frozen=True, slots=True)
class Material:
    """A key version that can be opened: what it is, and its wrapped bytes here."""

    version: str
    spec: KeySpec
    public_key: bytes
    wrapped: WrappedKey = field(repr=False)
    mac: bytes = field(repr=False)
    """The region's MAC over `wrapped.statement(vault_id)`; checked before opening."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """Output of an authenticated encryption."""

    iv: bytes
    """12 bytes, from the HSM's generator."""
    ciphertext: bytes = field(repr=False)
    tag: bytes
    """16 bytes."""
