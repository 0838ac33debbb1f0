"""RSA keys that give themselves away by their numbers."""

import random
from math import gcd, prod

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from hsmvault.model.errors import KeyMaterialInvalid
from hsmvault.model.weakness import require_strong_rsa

F4 = 65537
SMALL_PRIMES = [p for p in range(2, 353) if all(p % q for q in range(2, p))]
"""The 71 primes of whose product Infineon's 1024-bit primes are multiples, and a
power of 65537 more (Nemec et al., 2017, table 1)."""


def prime(of: random.Random, bits: int, *, least: int = 0) -> int:
    """A prime of so many bits, its two highest set, or the next one from `least`."""
    number = least or of.getrandbits(bits) | 3 << (bits - 2)
    number |= 1
    while not is_prime(number):
        number += 2
    return number


def is_prime(number: int) -> bool:
    """Fermat's test by a few bases: these numbers are no Carmichael numbers."""
    return all(number % p for p in SMALL_PRIMES) and all(
        pow(base, number - 1, number) == 1 for base in (2, 3, 5)
    )


def infineon_prime(of: random.Random) -> int:
    """A prime as the library made them: k M + (65537^a mod M)."""
    m = prod(SMALL_PRIMES)
    low = (3 << 1022) // m
    while True:
        k, a = of.randrange(low, (1 << 1024) // m), of.getrandbits(60)
        number = k * m + pow(F4, a, m)
        if number.bit_length() == 1024 and is_prime(number):
            return number


@pytest.mark.parametrize("bits", [2048, 3072])
def test_ordinary_keys_are_taken(bits: int) -> None:
    for _ in range(3):
        numbers = rsa.generate_private_key(F4, bits).public_key().public_numbers()

        require_strong_rsa(numbers.n, numbers.e)


def test_cr_06_keys_of_infineons_library_are_known_by_their_fingerprint() -> None:
    of = random.Random(2017)
    modulus = infineon_prime(of) * infineon_prime(of)
    assert modulus.bit_length() == 2048

    with pytest.raises(KeyMaterialInvalid, match="ROCA"):
        require_strong_rsa(modulus, F4)


@pytest.mark.parametrize("factor", [3, 7, 4093])
def test_cr_06_small_factors_are_found(factor: int) -> None:
    of = random.Random(factor)
    modulus = factor * (of.getrandbits(2050 - factor.bit_length()) | 1)
    while modulus.bit_length() != 2048:
        modulus = factor * (of.getrandbits(2049 - factor.bit_length()) | 1)

    with pytest.raises(KeyMaterialInvalid, match="small factors"):
        require_strong_rsa(modulus, F4)


def test_cr_06_primes_that_lie_together_are_found() -> None:
    of = random.Random(1)
    p = prime(of, 1024)
    q = prime(of, 1024, least=p + 2)

    for modulus in (p * q, p * p):
        with pytest.raises(KeyMaterialInvalid, match="close together"):
            require_strong_rsa(modulus, F4)


@pytest.mark.parametrize("bits", [512, 1024, 2047, 2049, 8192])
def test_cr_06_other_sizes_are_refused(bits: int) -> None:
    with pytest.raises(KeyMaterialInvalid, match=f"RSA key of {bits} bits"):
        require_strong_rsa((1 << (bits - 1)) | 1, F4)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 17, 65535, 65536, 65538, 1 << 256])
def test_cr_06_exponents_that_are_small_even_or_huge_are_refused(
    exponent: int,
) -> None:
    modulus = rsa.generate_private_key(F4, 2048).public_key().public_numbers().n

    with pytest.raises(KeyMaterialInvalid, match="exponent"):
        require_strong_rsa(modulus, exponent)


def test_cr_06_an_even_modulus_is_refused() -> None:
    modulus = rsa.generate_private_key(F4, 2048).public_key().public_numbers().n
    assert gcd(modulus, 2) == 1

    with pytest.raises(KeyMaterialInvalid, match="even"):
        require_strong_rsa(modulus - 1, F4)
