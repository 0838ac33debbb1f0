"""What an attacker does with what they got out: RFC 5649 and RFC 3394 by hand."""

import hashlib
from collections.abc import Callable


def unwrap(wrapped: bytes, decrypt_block: Callable[[bytes], bytes]) -> bytes:
    """Peel AES-KWP with nothing but an oracle that decrypts single blocks."""
    blocks = [wrapped[i : i + 8] for i in range(0, len(wrapped), 8)]
    a, r = blocks[0], blocks[1:]
    if len(r) == 1:
        a, r = _halves(decrypt_block(wrapped))
    else:
        for j in reversed(range(6)):
            for i in reversed(range(len(r))):
                t = len(r) * j + i + 1
                tied = bytes(x ^ y for x, y in zip(a, t.to_bytes(8), strict=True))
                plain = decrypt_block(tied + r[i])
                a, r[i] = plain[:8], plain[8:]
    assert a[:4] == bytes.fromhex("a65959a6"), "this is not what was wrapped"
    return b"".join(r)[: int.from_bytes(a[4:])]


def _halves(block: bytes) -> tuple[bytes, list[bytes]]:
    return block[:8], [block[8:]]


def is_key(value: bytes, digest: bytes) -> bool:
    """Tell whether this is the key of which the token told SHA-256."""
    return hashlib.sha256(value).digest() == digest
