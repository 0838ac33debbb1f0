"""Using a key once, to see that it is what its record says."""

from typing import Any, Final

from hsmvault.hsm import ciphers, public
from hsmvault.hsm.mechanisms import SIGNATURE_BYTES_MAX, SIGNING, Signing
from hsmvault.hsm.session import Session
from hsmvault.hsm.templates import Purpose, first_purpose
from hsmvault.model.algorithms import Algorithm, KeySpec, KeyType

_TEST_DIGEST: Final = bytes(range(32))


def works(session: Session, key: Any, spec: KeySpec, public_key: bytes) -> bool:
    """Use a key that is open for `first_purpose`; pairs must fit their public half."""
    if first_purpose(spec) is Purpose.CIPHER:
        sealed = ciphers.encrypt_gcm(session, key, _TEST_DIGEST, b"")
        return ciphers.decrypt_gcm(key, sealed, b"") == _TEST_DIGEST
    if spec.type is KeyType.OCT:
        made = ciphers.mac(key, Algorithm(f"HS{spec.bits}"), _TEST_DIGEST)
        return len(made) * 8 == spec.bits
    rsa = spec.type is KeyType.RSA
    how = SIGNING[Algorithm.PS256 if rsa else Algorithm.ES256]
    half = public.load(public_key)
    return public.verify(half, how, _TEST_DIGEST, sign(key, how, _TEST_DIGEST))


def sign(key: Any, how: Signing, digest: bytes) -> bytes:
    """Sign a digest; ECDSA answers raw r‖s."""
    signature: bytes = key.sign(
        how.prefix + digest,
        mechanism=how.mechanism,
        mechanism_param=how.parameter,
        buffer_size=SIGNATURE_BYTES_MAX,
    )
    return signature
