"""AES in CBC mode, for what was made so elsewhere. Nothing here is authenticated.

Padding is put on and taken off outside the token: so a key allows CBC alone, and good
and bad padding take the same steps.
"""

from typing import Any, Final

from pkcs11.mechanisms import Mechanism

from hsmvault.hsm.session import Session
from hsmvault.model.algorithms import CBC_PAD, Algorithm
from hsmvault.model.errors import CiphertextInvalid, InvalidRequest
from hsmvault.model.material import Sealed

BLOCK: Final = 16


def encrypt(session: Session, key: Any, algorithm: Algorithm, data: bytes) -> Sealed:
    """Encrypt under an IV of the token's own making (NIST SP 800-38A, appendix C)."""
    iv = session.raw.generate_random(BLOCK * 8)
    if algorithm in CBC_PAD:
        count = BLOCK - len(data) % BLOCK
        data += bytes([count]) * count
    ciphertext: bytes = key.encrypt(
        data,
        mechanism=Mechanism.AES_CBC,
        mechanism_param=iv,
        buffer_size=len(data) + BLOCK,
    )
    return Sealed(iv, ciphertext, b"")


def decrypt(key: Any, algorithm: Algorithm, sealed: Sealed) -> bytes:
    """Decrypt, or raise CiphertextInvalid: the same for whatever is wrong."""
    data: bytes = key.decrypt(
        sealed.ciphertext,
        mechanism=Mechanism.AES_CBC,
        mechanism_param=sealed.iv,
        buffer_size=len(sealed.ciphertext) + BLOCK,
    )
    return _unpadded(data) if algorithm in CBC_PAD else data


def _unpadded(data: bytes) -> bytes:
    count = data[-1]
    bad = int(not 1 <= count <= BLOCK)
    for place in range(1, BLOCK + 1):
        # Every byte of the last block is looked at, whatever the last one says.
        bad |= int(place <= count) * (data[-place] ^ count)
    if bad:
        raise CiphertextInvalid("the ciphertext does not decrypt")
    return data[:-count]


def require_blocks(algorithm: Algorithm, data: bytes) -> None:
    """Raise InvalidRequest for what CBC without padding does not take."""
    if algorithm not in CBC_PAD and (not data or len(data) % BLOCK):
        raise InvalidRequest(
            "{algorithm} encrypts multiples of {block} bytes, not {given}; "
            "{algorithm}PAD pads",
            algorithm=algorithm,
            block=BLOCK,
            given=len(data),
        )


def require_sealed(sealed: Sealed) -> None:
    """Raise CiphertextInvalid for what CBC cannot have made."""
    length = len(sealed.ciphertext)
    if len(sealed.iv) != BLOCK or sealed.tag or not length or length % BLOCK:
        raise CiphertextInvalid("the ciphertext does not decrypt")
