"""Taking OAEP padding off: equal to `cryptography`'s, and one error for all else."""

import secrets

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from hsmvault.hsm.oaep import unpad
from hsmvault.model.errors import CiphertextInvalid

KEY = rsa.generate_private_key(65537, 2048)
NUMBERS = KEY.private_numbers()
SIZE = 256
LONGEST = SIZE - 2 * 32 - 2


def encoded(plaintext: bytes) -> bytes:
    """What raw RSA would give: OAEP by `cryptography`, decrypted without unpadding."""
    known = hashes.SHA256()
    ciphertext = KEY.public_key().encrypt(
        plaintext, padding.OAEP(padding.MGF1(known), known, None)
    )
    number = pow(int.from_bytes(ciphertext, "big"), NUMBERS.d, NUMBERS.public_numbers.n)
    return number.to_bytes(SIZE, "big")


@given(st.binary(max_size=LONGEST))
def test_what_was_padded_is_unpadded(plaintext: bytes) -> None:
    assert unpad(encoded(plaintext)) == plaintext


@pytest.mark.parametrize("plaintext", [b"", b"\0" * LONGEST, b"\1" * LONGEST])
def test_plaintexts_that_look_like_padding_survive(plaintext: bytes) -> None:
    assert unpad(encoded(plaintext)) == plaintext


@given(st.integers(0, SIZE * 8 - 1))
def test_any_bit_turned_is_refused(bit: int) -> None:
    changed = bytearray(encoded(b"a secret"))
    changed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(CiphertextInvalid) as caught:
        unpad(bytes(changed))

    assert str(caught.value) == "the ciphertext does not decrypt"


def test_random_bytes_are_refused() -> None:
    for _ in range(100):
        with pytest.raises(CiphertextInvalid):
            unpad(b"\0" + secrets.token_bytes(SIZE - 1))
