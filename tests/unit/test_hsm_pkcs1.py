"""Taking PKCS #1 v1.5 padding off: as OpenSSL does it, and never with an error."""

import hashlib
import random
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.hsm import pkcs1

SIZE = 256


@pytest.fixture(scope="module")
def private() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, SIZE * 8)


def _raw(private: rsa.RSAPrivateKey, ciphertext: bytes) -> bytes:
    numbers = private.private_numbers()
    n = numbers.public_numbers.n
    return pow(int.from_bytes(ciphertext), numbers.d, n).to_bytes(SIZE)


def _encrypted(private: rsa.RSAPrivateKey, encoded: bytes) -> bytes:
    numbers = private.public_key().public_numbers()
    return pow(int.from_bytes(encoded), numbers.e, numbers.n).to_bytes(SIZE)


def _badly_padded(seed: random.Random) -> Iterator[bytes]:
    """Blocks that break each rule of RFC 8017, 7.2.2, at its edges, and others."""
    filled = bytes(seed.randrange(1, 256) for _ in range(SIZE))
    yield b"\0\2" + filled[:-2]  # no separator
    yield b"\0\2\0" + filled[:-3]  # no padding at all
    yield b"\0\2" + filled[:7] + b"\0" + filled[: SIZE - 10]  # a byte too little
    yield b"\0\1" + filled[:8] + b"\0" + filled[: SIZE - 11]  # a signature's
    yield b"\0\0" + filled[:8] + b"\0" + filled[: SIZE - 11]
    yield b"\1\2" + filled[:8] + b"\0" + filled[: SIZE - 11]
    for _ in range(150):
        yield b"\0" + seed.randbytes(SIZE - 1)


def test_it_answers_what_openssl_answers_to_good_and_to_bad_padding(
    private: rsa.RSAPrivateKey,
) -> None:
    """OpenSSL's secret is a hash of the private exponent, as the draft has it."""
    seed = random.Random(15)
    secret = hashlib.sha256(private.private_numbers().d.to_bytes(SIZE)).digest()
    good = [
        private.public_key().encrypt(seed.randbytes(length), padding.PKCS1v15())
        for length in (0, 1, 32, SIZE - 11)
    ]
    bad = [_encrypted(private, block) for block in _badly_padded(seed)]

    for ciphertext in good + bad:
        ours = pkcs1.decode(_raw(private, ciphertext), ciphertext, secret)
        assert ours == private.decrypt(ciphertext, padding.PKCS1v15())


@given(st.binary(min_size=SIZE, max_size=SIZE), st.binary(min_size=32, max_size=32))
def test_nothing_is_ever_refused(block: bytes, secret: bytes) -> None:
    answered = pkcs1.decode(block, b"c" * SIZE, secret)

    assert len(answered) <= SIZE - 11
    assert answered == pkcs1.decode(block, b"c" * SIZE, secret)


def test_what_is_answered_instead_has_lengths_like_any_other() -> None:
    seed = random.Random(5)
    lengths = [
        len(pkcs1.decode(bytes(SIZE), seed.randbytes(SIZE), bytes(32)))
        for _ in range(300)
    ]

    # Uniform in 0 … 245: all four quarters are there, with a wide margin.
    for quarter in range(4):
        low, high = quarter * 61, (quarter + 1) * 61
        assert sum(low <= length < high for length in lengths) > 40


def test_a_challenge_is_neither_a_signature_s_block_nor_a_ciphertext_s() -> None:
    for size in (256, 384, 512):
        block = pkcs1.challenge(b"public", size)

        assert len(block) == size
        assert block[:2] == b"\0\3"
        assert block[-1] != 0xBC
        assert block != pkcs1.challenge(b"other", size)
