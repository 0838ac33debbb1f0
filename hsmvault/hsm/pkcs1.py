"""Taking PKCS #1 v1.5 padding off (RFC 8017, 7.2.2) without telling whether it was one.

Bleichenbacher's attack lives on learning which ciphertexts are well padded. So none is
ever refused: to a bad one the answer is a pseudorandom plaintext, the same each time,
made from the ciphertext and from what only the private key can make. That is implicit
rejection, as draft-irtf-cfrg-rsa-guidance, 7, and OpenSSL 3.2 have it.
"""

import hashlib
import hmac
from typing import Final

_TAG: Final = b"hsmvault/implicit-rejection/v1"
_LEAST: Final = 8
"""Bytes of padding that there must be."""
_CANDIDATES: Final = 128
"""Lengths drawn for the plaintext of a bad ciphertext; one of them fits, practically
always."""


def challenge(public_key: bytes, size: int) -> bytes:
    """Return what the private key is applied to for its rejection secret.

    The draft hashes the private exponent, which never leaves a token. This number to
    its power is known to nobody else either, and alike in every partition and region:
    were it not, asking two of them would tell a bad ciphertext. No signature and no
    ciphertext of ours begins or ends like it.
    """
    blocks = (
        hashlib.sha256(_TAG + count.to_bytes(2, "big") + public_key).digest()
        for count in range(-(-size // 32))
    )
    # Below the modulus; block type 3 does not exist, and PSS ends in 0xBC.
    return b"\0\3" + b"".join(blocks)[: size - 3] + b"\0"


def rejection_secret(answered: bytes) -> bytes:
    """Return the secret from what the private key made of its challenge."""
    return hashlib.sha256(answered).digest()


def _stream(key: bytes, label: bytes, length: int) -> bytes:
    bits = (length * 8).to_bytes(2, "big")
    blocks = (
        hmac.digest(key, count.to_bytes(2, "big") + label + bits, "sha256")
        for count in range(-(-length // 32))
    )
    return b"".join(blocks)[:length]


def _length(key: bytes, size: int) -> int:
    """How long the answer to a bad ciphertext is: up to what a good one can hold."""
    longest = size - 2 - _LEAST
    mask = (1 << longest.bit_length()) - 1
    drawn = _stream(key, b"length", 2 * _CANDIDATES)
    length = 0
    for place in range(0, 2 * _CANDIDATES, 2):
        candidate = int.from_bytes(drawn[place : place + 2], "big") & mask
        fits = -int(candidate < longest)
        length = (length & ~fits) | (candidate & fits)
    return length


def decode(encoded: bytes, ciphertext: bytes, secret: bytes) -> bytes:
    """Return the plaintext, or a pseudorandom one. Never fails.

    `encoded` is the ciphertext to the private exponent, as long as the modulus. The
    steps are the same for any of them; the last one alone depends on the length of what
    is answered.
    """
    size = len(encoded)
    key = hmac.digest(secret, ciphertext, "sha256")
    substitute = _stream(key, b"message", size)
    length = _length(key, size)

    bad = encoded[0] | (encoded[1] ^ 2)
    start, looking = 0, 1
    for place in range(2, size):
        is_zero = int(encoded[place] == 0)
        start |= looking * is_zero * (place + 1)
        looking &= 1 - is_zero
    bad |= looking | int(start < 2 + _LEAST + 1)

    # All ones to keep what was encoded, all zeros to put the other in its place.
    keep = -int(bad == 0)
    begin = (start & keep) | ((size - length) & ~keep)
    joined = (int.from_bytes(encoded, "big") & keep) | (
        int.from_bytes(substitute, "big") & ~keep
    )
    return joined.to_bytes(size, "big")[begin:]
