"""RSA keys that are not to be trusted, by their numbers alone.

What a partition makes itself needs none of this. What is brought in was made by a
program that we do not know, and some programs are known for the keys they made.
"""

from functools import lru_cache
from math import gcd, isqrt
from typing import Final

from hsmvault.model.algorithms import SIZES, KeyType
from hsmvault.model.errors import KeyMaterialInvalid

EXPONENT_MIN: Final = 65537
"""FIPS 186-5, 5.4: at least this, and odd."""
EXPONENT_BITS_MAX: Final = 256
_FACTORS_BELOW: Final = 1 << 12
_FERMAT_STEPS: Final = 100
_ROCA_BELOW: Final = 168


def require_strong_rsa(modulus: int, exponent: int) -> None:
    """Raise KeyMaterialInvalid for a public half that gives its private one away.

    Size and exponent (FIPS 186-5, 5.4; NIST SP 800-56B, 6.4.2), an even modulus or one
    with small factors, factors close together (Fermat), and what Infineon's library
    made (CVE-2017-15361, ROCA).
    """
    bits = modulus.bit_length()
    if bits not in SIZES[KeyType.RSA]:
        raise KeyMaterialInvalid(
            "an RSA key of {bits} bits is not taken; it must have {known}",
            bits=bits,
            known=", ".join(map(str, SIZES[KeyType.RSA])),
        )
    if exponent < EXPONENT_MIN or exponent.bit_length() > EXPONENT_BITS_MAX:
        raise KeyMaterialInvalid(
            "the RSA key's public exponent is not between {least} and 2^{most}; make "
            "another key",
            least=EXPONENT_MIN,
            most=EXPONENT_BITS_MAX,
        )
    if exponent % 2 == 0:
        raise KeyMaterialInvalid("the RSA key's public exponent is even")
    if modulus % 2 == 0:
        raise KeyMaterialInvalid("the RSA key's modulus is even; it is no RSA key")
    if gcd(modulus, _small_factors()) != 1:
        raise KeyMaterialInvalid(
            "the RSA key's modulus has small factors; make another key"
        )
    if _close_factors(modulus):
        raise KeyMaterialInvalid(
            "the RSA key's two primes lie close together, so anybody can find them; "
            "make another key"
        )
    if _is_roca(modulus):
        raise KeyMaterialInvalid(
            "the RSA key was made by a library whose keys can be factored "
            "(CVE-2017-15361, ROCA); make another key"
        )


def _primes(below: int) -> list[int]:
    sieve = bytearray([1]) * below
    for n in range(2, isqrt(below) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return [n for n in range(3, below) if sieve[n]]


@lru_cache(maxsize=1)
def _small_factors() -> int:
    product = 1
    for prime in _primes(_FACTORS_BELOW):
        product *= prime
    return product


def _close_factors(modulus: int) -> bool:
    """Tell whether Fermat's method finds the factors in a few steps."""
    middle = isqrt(modulus) + 1
    for a in range(middle, middle + _FERMAT_STEPS):
        rest = a * a - modulus
        if isqrt(rest) ** 2 == rest:
            return True
    # A square has one factor, twice.
    return isqrt(modulus) ** 2 == modulus


@lru_cache(maxsize=1)
def _roca_residues() -> tuple[tuple[int, frozenset[int]], ...]:
    """For each small prime, the powers of 65537: all that its primes can be."""
    return tuple(
        (prime, frozenset(pow(EXPONENT_MIN, n, prime) for n in range(prime)))
        for prime in _primes(_ROCA_BELOW)
    )


def _is_roca(modulus: int) -> bool:
    """Nemec et al., "The Return of Coppersmith's Attack" (2017), section 2.2."""
    return all(modulus % prime in powers for prime, powers in _roca_residues())
