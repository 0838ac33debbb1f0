"""A region looked at from outside its processes: its database, and its tokens.

What is found here is what somebody finds who has the files, and the user PINs.
"""

import base64
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from hsmvault.config import RegionConfig
from tests.support.regions import LiveRegion
from tests.support.stranger import SECRET_KEY, Stranger

MARKS: Final = {
    "an RSA key in PKCS#8": "020100300d06092a864886f70d010101",
    "a P-256 key in PKCS#8": "020100301306072a8648ce3d0201",
    "another EC key in PKCS#8": "020100301006072a8648ce3d0201",
    "an EC key as SEC 1 writes it": "0201010420",
    "a key in PEM": b"PRIVATE KEY".hex(),
}
"""How private keys begin, where they are not wrapped."""


@dataclass(frozen=True)
class WrappedRow:
    """One row of the table of wrapped keys."""

    version: str
    region: str
    wrapping_key: str
    wrapped: bytes


def wrapped_rows(region: LiveRegion) -> list[WrappedRow]:
    """Every wrapped key that rests in a region."""
    query = "SELECT version, region, wrapping_key, wrapped FROM wrapped"
    return [WrappedRow(*row) for row in _asked(region, query)]


def newest(region: LiveRegion) -> tuple[int, bytes]:
    """Index and chain value of the last entry in a region's log, or of its base."""
    query = "SELECT idx, chain FROM log ORDER BY idx DESC LIMIT 1"
    for index, chain in _asked(region, query):
        return index, chain
    # A log that began with a snapshot, and has had no entry since.
    ((base,),) = _asked(region, "SELECT value FROM meta WHERE name = 'base'")
    position, _, digest = base.rpartition(":")
    return int(position.rpartition(".")[2]), bytes.fromhex(digest)


def chains(region: LiveRegion) -> dict[int, bytes]:
    """The chain value of every entry that a region has."""
    return dict(_asked(region, "SELECT idx, chain FROM log"))


def values(region: LiveRegion) -> set[bytes]:
    """Every value in every table of a region's database, as bytes."""
    tables = [name for (name,) in _asked(region, "SELECT name FROM sqlite_master")]
    found: set[bytes] = set()
    for table in tables:
        if table.startswith(("sqlite_", "ix_")):
            continue
        try:
            rows = _asked(region, f'SELECT * FROM "{table}"')  # noqa: S608 (its names)
        except sqlite3.OperationalError:
            continue  # an index
        for row in rows:
            for value in row:
                found.add(value if isinstance(value, bytes) else str(value).encode())
    return found


def bytes_at_rest(region: LiveRegion) -> bytes:
    """The files of a region's database, the write-ahead log among them."""
    files = sorted(region.layout.store_directory.iterdir())
    assert files
    return b"".join(path.read_bytes() for path in files)


def secret_labels(settings: RegionConfig, partition: str) -> set[str]:
    """Labels of all secret keys that the user PIN shows in a token."""
    one = settings.partitions[partition]
    with _stranger(settings, partition) as stranger:
        assert stranger.login(one.user_pin_file.read_text().strip()).ok
        return {
            stranger.get(handle, "LABEL").data.decode()
            for handle in stranger.find(("CLASS", SECRET_KEY), ("TOKEN", True))
        }


def answer_to_pin(settings: RegionConfig, partition: str) -> str:
    """What a token says to the user PIN that it had."""
    pin = settings.partitions[partition].user_pin_file.read_text().strip()
    with _stranger(settings, partition) as stranger:
        return stranger.login(pin).rv


def objects(region: LiveRegion, partition: str) -> list[str]:
    """The files in which SoftHSM keeps a token's objects."""
    found = region.layout.token(partition).rglob("*.object")
    return sorted(path.name for path in found if path.name != "token.object")


def _stranger(settings: RegionConfig, partition: str) -> Stranger:
    one = settings.partitions[partition]
    environment = settings.environment(partition)
    return Stranger(str(one.module), environment, one.token_label)


def private_keys_in(raw: bytes) -> list[str]:
    """What looks like a private key in the clear."""
    return [what for what, mark in MARKS.items() if bytes.fromhex(mark) in raw]


def spellings_in(raw: bytes, secret: bytes) -> bool:
    """Whether a secret is there: as it is, in hex, or in base64."""
    hexed = secret.hex().encode()
    return any(
        spelling in raw
        for spelling in (secret, hexed, hexed.upper(), base64.b64encode(secret))
    )


def prime_factor_in(raw: bytes, public: bytes) -> bool:
    """Whether a prime factor of an RSA key's modulus is there: all of the key is."""
    half = load_der_public_key(public)
    assert isinstance(half, RSAPublicKey)
    modulus = half.public_numbers().n
    return any(
        window[0] >> 7 and window[-1] & 1 and modulus % int.from_bytes(window) == 0
        for window in _windows(raw, half.key_size // 16)
    )


def gcm_key_in(
    raw: bytes, *, bits: int, iv: bytes, plain: bytes, sealed: bytes
) -> bool:
    """Whether the key is there by which AES-GCM made `sealed` of `plain`."""
    block = iv + (2).to_bytes(4)
    stream = bytes(a ^ b for a, b in zip(plain[:16], sealed[:16], strict=True))
    return any(
        Cipher(algorithms.AES(window), modes.ECB()).encryptor().update(block) == stream  # noqa: S305 (one block)
        for window in _windows(raw, bits // 8)
    )


def anywhere(region: LiveRegion, found_in: Callable[[bytes], bool]) -> bool:
    """Whether a search finds something in any value of a region's database."""
    return any(found_in(value) for value in values(region))


def _windows(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(len(raw) - size + 1))


def _asked(region: LiveRegion, query: str) -> list[tuple]:
    # mode=ro: looking must not change what is looked at.
    uri = f"file:{region.layout.store}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        return database.execute(query).fetchall()
