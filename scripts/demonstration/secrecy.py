"""Step 6, first half: what somebody finds who has the store of south."""

import binascii
import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_public_key

import hsmvault
from scripts.demonstration.envelope import Secret
from scripts.demonstration.keys import AES, EC, RSA, Made
from scripts.demonstration.stage import Stage

WINDOW: Final = 32
"""Bytes of a P-256 or AES-256 private value."""
PRIME: Final = 192
"""Bytes of each prime of an RSA-3072 key."""

_RANDOM: Final = 6
"""A random 32 bytes value has this many bytes above 127 but for one in 100 000."""

_ENCODED: Final = re.compile(rb"[0-9a-f]{64,}|[0-9A-F]{64,}")


def search_store(
    stage: Stage, vault: hsmvault.Vault, south: Path, *, made: list[Made], data: Secret
) -> list[tuple[str, str, bytes]]:
    """Look for the three keys in south's database, byte by byte."""
    store = south / "store"
    raw = b"".join(p.read_bytes() for p in sorted(store.glob("vault.db*")))
    stage.say(f"the store of south: {len(raw)} bytes in {_files(store)}")
    rows = _wrapped(store / "vault.db")
    kinds = {(key, mechanism) for _, key, mechanism, _ in rows}
    stage.say(
        f"{len(rows)} wrapped keys, under "
        + ", ".join(f"{key} by {mechanism}" for key, mechanism in sorted(kinds))
    )
    stage.claim(
        "every key in it is wrapped under a key that never leaves south's HSM",
        true=bool(rows) and kinds == {("region/south", "KWP")},
    )
    windows = windows_of(raw)
    stage.say(f"{len(windows)} places in it look random enough to be a key; trying all")
    stage.claim(
        "none of them is the private key of the P-256 key",
        true=not holds_ec(windows, vault.keys.public_key(EC).der),
    )
    known = vault.encrypt(AES, "A256GCM", b"known")
    stage.claim(
        "none of them is the AES-256 key",
        true=not holds_aes(windows, iv=known.iv, sealed=known.ciphertext + known.tag),
    )
    stage.claim(
        "nothing in it divides the RSA modulus",
        true=not holds_rsa(raw, vault.keys.public_key(RSA).der),
    )
    stage.claim(
        "the data key of step 3 is nowhere in it", true=data.plaintext not in raw
    )
    versions = {one.version.rpartition("/")[2]: one.name for one in made}
    return [(versions[v], key, w) for v, key, _, w in rows if v in versions]


def _files(store: Path) -> str:
    return ", ".join(p.name for p in sorted(store.glob("vault.db*")))


def _wrapped(database: Path) -> list[tuple[str, str, str, bytes]]:
    with contextlib.closing(
        sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    ) as opened:
        return opened.execute(
            "SELECT version, wrapping_key, mechanism, wrapped FROM wrapped"
        ).fetchall()


def windows_of(raw: bytes) -> set[bytes]:
    """Every place that may hold a key, also where it would be written in hex."""
    found = set(_windows(raw))
    for run in _ENCODED.findall(raw):
        found.update(_windows(_unhex(run)))
    return found


def _windows(raw: bytes) -> Iterator[bytes]:
    """Every stretch of 32 bytes that is not plainly text, a table or padding."""
    high = [byte >> 7 for byte in raw]
    count = sum(high[:WINDOW])
    for at in range(len(raw) - WINDOW + 1):
        if count >= _RANDOM:
            yield raw[at : at + WINDOW]
        if at + WINDOW < len(raw):
            count += high[at + WINDOW] - high[at]


def _unhex(run: bytes) -> bytes:
    return binascii.unhexlify(run[: len(run) // 2 * 2])


def holds_ec(windows: set[bytes], der: bytes) -> bool:
    """Tell whether one of them is the private half of this P-256 key."""
    public = load_der_public_key(der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    wanted = public.public_numbers().x
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    for window in windows:
        scalar = int.from_bytes(window, "big")
        if 0 < scalar < order:
            tried = ec.derive_private_key(scalar, ec.SECP256R1())
            if tried.public_key().public_numbers().x == wanted:
                return True
    return False


def holds_aes(windows: set[bytes], *, iv: bytes, sealed: bytes) -> bool:
    """Tell whether one of them opens what the key has sealed."""
    for window in windows:
        with contextlib.suppress(InvalidTag):
            AESGCM(window).decrypt(iv, sealed, None)
            return True
    return False


def holds_rsa(raw: bytes, der: bytes) -> bool:
    """Tell whether a prime of this RSA-3072 key lies anywhere in the bytes."""
    public = load_der_public_key(der)
    assert isinstance(public, rsa.RSAPublicKey)
    modulus = public.public_numbers().n
    for at in range(len(raw) - PRIME + 1):
        # A prime is odd and has its top bit set.
        if not (raw[at] & 0x80 and raw[at + PRIME - 1] & 1):
            continue
        if modulus % int.from_bytes(raw[at : at + PRIME], "big") == 0:
            return True
    return False
