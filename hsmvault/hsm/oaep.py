"""Taking OAEP padding off outside the token, for hashes that the token does not have.

RFC 8017, 7.1.2. Manger's attack lives on telling failures apart, so every check is
made on every input, their results are joined without a branch, and there is one error.
"""

import hashlib
import hmac
from typing import Final

from hsmvault.model.errors import CiphertextInvalid

_SIZE: Final = 32
_EMPTY_LABEL: Final = hashlib.sha256(b"").digest()


def _mask(seed: bytes, length: int) -> bytes:
    """MGF1."""
    blocks = (
        hashlib.sha256(seed + counter.to_bytes(4, "big")).digest()
        for counter in range(-(-length // _SIZE))
    )
    return b"".join(blocks)[:length]


def _xor(left: bytes, right: bytes) -> bytes:
    joined = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    return joined.to_bytes(len(left), "big")


def unpad(encoded: bytes) -> bytes:
    """Return what RSA-OAEP-256 had encoded, or raise CiphertextInvalid.

    `encoded` is as long as the modulus, and that is public.
    """
    masked_seed, masked = encoded[1 : 1 + _SIZE], encoded[1 + _SIZE :]
    seed = _xor(masked_seed, _mask(masked, _SIZE))
    block = _xor(masked, _mask(seed, len(masked)))

    bad = int(not hmac.compare_digest(block[:_SIZE], _EMPTY_LABEL)) | encoded[0]
    start, looking = 0, 1
    # Every byte is looked at: how long the padding is must not show in the time.
    for place in range(_SIZE, len(block)):
        byte = block[place]
        is_one = int(byte == 1)
        is_zero = int(byte == 0)
        start |= looking * is_one * (place + 1)
        bad |= looking * (1 - is_one) * (1 - is_zero)
        looking &= 1 - is_one
    if bad | looking:
        raise CiphertextInvalid("the ciphertext does not decrypt")
    return block[start:]
