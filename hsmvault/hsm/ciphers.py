"""Encrypting, wrapping and MACing callers' bytes with open keys, and back."""

from typing import Any, Final

from pkcs11 import exceptions
from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import GCMParams, Mechanism
from pkcs11.mechanisms import KeyType as CkKeyType

from hsmvault.hsm import oaep, pkcs1
from hsmvault.hsm.core import Core
from hsmvault.hsm.mechanisms import IV_BYTES, KW_BLOCK, KW_LEAST, MACS, OAEP, TAG_BYTES
from hsmvault.hsm.opened import Opened, destroy
from hsmvault.hsm.session import Session
from hsmvault.model.algorithms import Algorithm
from hsmvault.model.errors import CiphertextInvalid, InvalidRequest
from hsmvault.model.material import Sealed

_ROOM: Final = 64
# Output that is longer than its input by no more than a tag or a block.

_TEMPORARY: Final = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: False,
    # The caller gave these bytes, or is about to get them; they live for one call.
    Attribute.EXTRACTABLE: True,
    Attribute.ENCRYPT: False,
    Attribute.DECRYPT: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.DERIVE: False,
}


def encrypt_gcm(session: Session, key: Any, plaintext: bytes, aad: bytes) -> Sealed:
    """Encrypt under an IV of the token's own making: nobody can make one repeat."""
    iv = session.raw.generate_random(IV_BYTES * 8)
    sealed = key.encrypt(
        plaintext,
        mechanism=Mechanism.AES_GCM,
        mechanism_param=GCMParams(iv, aad or None, TAG_BYTES * 8),
        buffer_size=len(plaintext) + _ROOM,
    )
    return Sealed(iv, sealed[:-TAG_BYTES], sealed[-TAG_BYTES:])


def require_gcm(sealed: Sealed) -> None:
    """Raise CiphertextInvalid for an IV or a tag that is not as we make them."""
    # The token itself would take any IV, and a tag of 32 bits.
    if len(sealed.iv) != IV_BYTES or len(sealed.tag) != TAG_BYTES:
        raise CiphertextInvalid("the ciphertext does not decrypt")


def decrypt_gcm(key: Any, sealed: Sealed, aad: bytes) -> bytes:
    """Decrypt; a wrong tag is a Cryptoki error."""
    plaintext: bytes = key.decrypt(
        sealed.ciphertext + sealed.tag,
        mechanism=Mechanism.AES_GCM,
        mechanism_param=GCMParams(sealed.iv, aad or None, TAG_BYTES * 8),
        buffer_size=len(sealed.ciphertext) + _ROOM,
    )
    return plaintext


def mac(key: Any, algorithm: Algorithm, data: bytes) -> bytes:
    """MAC the data itself: HMAC takes messages, not digests."""
    mechanism, size = MACS[algorithm]
    made: bytes = key.sign(data, mechanism=mechanism, buffer_size=size)
    return made


def require_kw(plaintext: bytes) -> None:
    """Raise InvalidRequest for what AES-KW does not take."""
    if len(plaintext) < KW_LEAST or len(plaintext) % KW_BLOCK:
        raise InvalidRequest(
            "AES-KW wraps {least} bytes or more, in multiples of {block}; not {given}",
            least=KW_LEAST,
            block=KW_BLOCK,
            given=len(plaintext),
        )


def require_kw_wrapped(wrapped: bytes) -> None:
    """Raise CiphertextInvalid for what AES-KW cannot have made."""
    if len(wrapped) < KW_LEAST + KW_BLOCK or len(wrapped) % KW_BLOCK:
        raise CiphertextInvalid("the ciphertext does not decrypt")


def wrap_kw(session: Session, key: Any, plaintext: bytes) -> bytes:
    """Wrap by AES-KW, which tokens do for objects only: so make one of the bytes."""
    temporary = session.raw.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: CkKeyType.GENERIC_SECRET,
            Attribute.VALUE: plaintext,
            **_TEMPORARY,
        }
    )
    try:
        wrapped: bytes = key.wrap_key(temporary, mechanism=Mechanism.AES_KEY_WRAP)
    finally:
        destroy(temporary)
    return wrapped


def unwrap_kw(key: Any, wrapped: bytes) -> bytes:
    """Unwrap by AES-KW into an object, and read the bytes off it."""
    temporary = key.unwrap_key(
        ObjectClass.SECRET_KEY,
        CkKeyType.GENERIC_SECRET,
        wrapped,
        mechanism=Mechanism.AES_KEY_WRAP,
        template=_TEMPORARY,
    )
    try:
        plaintext: bytes = temporary[Attribute.VALUE]
    finally:
        destroy(temporary)
    return plaintext


_NOT_OFFERED: Final = (
    exceptions.ArgumentsBad,
    exceptions.FunctionNotSupported,
    exceptions.MechanismInvalid,
    exceptions.MechanismParamInvalid,
)
"""How tokens answer to OAEP with a hash that they do not have."""


def decrypt_oaep(
    core: Core, key: Any, algorithm: Algorithm, ciphertext: bytes
) -> bytes:
    """Decrypt OAEP in the token, or take the padding off outside where it cannot."""
    if algorithm not in core.not_native:
        try:
            plaintext: bytes = key.decrypt(
                ciphertext,
                mechanism=Mechanism.RSA_PKCS_OAEP,
                mechanism_param=OAEP[algorithm].parameter,
            )
        except _NOT_OFFERED:
            if algorithm is not Algorithm.RSA_OAEP_256:
                raise
            core.not_native.add(algorithm)
        else:
            return plaintext
    raw: bytes = key.decrypt(ciphertext, mechanism=Mechanism.RSA_X_509)
    return oaep.unpad(raw.rjust(len(ciphertext), b"\0"))


_REJECTION: Final = "rejection"


def decrypt_pkcs1(opened: Opened, ciphertext: bytes, public_key: bytes) -> bytes:
    """Decrypt PKCS #1 v1.5: by raw RSA, and no padding is an error."""
    key, size = opened.key, len(ciphertext)
    secret = opened.secrets.get(_REJECTION)
    if secret is None:
        asked = pkcs1.challenge(public_key, size)
        answered: bytes = key.decrypt(asked, mechanism=Mechanism.RSA_X_509)
        secret = pkcs1.rejection_secret(answered.rjust(size, b"\0"))
        opened.secrets[_REJECTION] = secret
    raw: bytes = key.decrypt(ciphertext, mechanism=Mechanism.RSA_X_509)
    return pkcs1.decode(raw.rjust(size, b"\0"), ciphertext, secret)
