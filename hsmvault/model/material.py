"""Key material on its way between the vault and a partition: always wrapped."""

from dataclasses import dataclass, field
from typing import Final

from hsmvault.model.algorithms import KeySpec, KeyType
from hsmvault.model.errors import KeyMaterialInvalid
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


@dataclass(frozen=True, slots=True)
class Plain:
    """A key that arrived in the clear, over TLS. It lives for one call."""

    spec: KeySpec
    public_key: bytes
    """SubjectPublicKeyInfo, DER; empty for oct keys."""
    secret: bytes = field(repr=False)
    """PrivateKeyInfo, DER (RFC 5958), or the bytes of an oct key."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A key that arrived under an import's wrapping key: CKM_RSA_AES_KEY_WRAP.

    An AES-256 key by RSA-OAEP with SHA-1, and after it, under that key by AES-KWP
    (RFC 5649), what `Plain.secret` is.
    """

    spec: KeySpec
    public_key: bytes
    """What the key is said to belong to. Tokens do not tell it of EC keys; of RSA keys
    they do, so there it may be empty."""
    wrapped: bytes = field(repr=False)


_KWP_MORE: Final = 8


def require_length(blob: Blob, bits: int) -> None:
    """Raise KeyMaterialInvalid for what cannot hold such a key.

    `bits` is the wrapping key's size.
    """
    given = len(blob.wrapped) - bits // 8
    exact = blob.spec.bits // 8 + _KWP_MORE
    if given < 2 * _KWP_MORE or given % _KWP_MORE:
        raise KeyMaterialInvalid(
            "the blob is too short, or cut off: after what RSA-OAEP made comes what "
            "AES-KWP made, in multiples of 8 bytes"
        )
    if blob.spec.type is KeyType.OCT and given != exact:
        raise KeyMaterialInvalid(
            "the blob does not hold an oct key of {bits} bits: under the carrier that "
            "has {exact} bytes, not {given}",
            bits=blob.spec.bits,
            exact=exact,
            given=given,
        )
