"""Opening wrapped keys: the MAC first, then the token, then what came out of it."""

from collections.abc import Sequence
from hmac import compare_digest
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from pkcs11 import PKCS11Error
from pkcs11.constants import Attribute
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm import public
from hsmvault.hsm.core import Core
from hsmvault.hsm.mechanisms import SIGNING
from hsmvault.hsm.opened import Opened, destroy
from hsmvault.hsm.session import Doing, Session
from hsmvault.hsm.templates import (
    KWP_MECHANISM,
    Purpose,
    asked,
    kind,
    require,
    user_key,
)
from hsmvault.metrics import OPEN_KEY_MISSES, count
from hsmvault.model.algorithms import Algorithm, KeySpec, KeyType
from hsmvault.model.errors import IntegrityFailure, VaultError, WrappedKeyInvalid
from hsmvault.model.material import Material
from hsmvault.model.stored import KWP, WRAPPED_BYTES_MAX, WrappedKey, region_key_name

_KWP_MORE: Final = 8
_PROOF: Final = SIGNING[Algorithm.ES256]
_DIGEST: Final = bytes(range(32))


def opened(
    core: Core, session: Session, material: Material, purpose: Purpose
) -> Opened:
    """Return the open key, opening it first where this session has not."""
    found = session.opened.get(material.version, purpose)
    if found is not None:
        return found
    count(OPEN_KEY_MISSES)
    core.sessions.make_room(session)
    key = open_material(core, session, material, purpose)
    half = public.load(material.public_key) if material.public_key else None
    fresh = Opened(
        material.version,
        purpose,
        key,
        half if isinstance(half, rsa.RSAPublicKey) else None,
    )
    session.opened.put(fresh)
    return fresh


def open_material(
    core: Core, session: Session, material: Material, purpose: Purpose
) -> Any:
    """Open what rests in this region as a session object that the caller destroys."""
    wrapped = material.wrapped
    require_for(
        wrapped,
        version=material.version,
        region=core.config.region,
        under=region_key_name(core.config.region),
    )
    check(core, session, [(wrapped.statement(core.vault_id), material.mac)])
    return unwrap(
        session,
        core.region_key(session),
        material.spec,
        purpose,
        wrapped=wrapped.wrapped,
        public_key=material.public_key,
    )


def check(core: Core, session: Session, pairs: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise IntegrityFailure unless each (statement, mac) was made by this region."""
    for statement, mac in pairs:
        if not compare_digest(core.mac(session, statement), mac):
            raise IntegrityFailure(
                "a stored record is not one that this region wrote for this vault: its "
                "MAC is wrong. Restore the store, or remove the region and add it again"
            )


def require_for(wrapped: WrappedKey, *, version: str, region: str, under: str) -> None:
    """Raise WrappedKeyInvalid unless it says that it is this version's, here.

    What is longer than any wrapped key is not even shown to the token.
    """
    if len(wrapped.wrapped) > WRAPPED_BYTES_MAX:
        raise WrappedKeyInvalid(
            "a stored wrapped key of {given} bytes is longer than any",
            given=len(wrapped.wrapped),
        )
    if (wrapped.version, wrapped.region, wrapped.wrapping_key, wrapped.mechanism) != (
        version,
        region,
        under,
        KWP,
    ):
        raise WrappedKeyInvalid(
            "a stored wrapped key is not what its record says: it is for version "
            "{found} in region {region}, wrapped by {under}",
            found=wrapped.version,
            region=wrapped.region,
            under=wrapped.wrapping_key,
        )


def unwrap(
    session: Session,
    under: Any,
    spec: KeySpec,
    purpose: Purpose,
    *,
    wrapped: bytes,
    public_key: bytes,
) -> Any:
    """Open material as a session object, and make sure that it is what its record says.

    Raises WrappedKeyInvalid, or a Cryptoki error for `Core.run` to explain.
    """
    template = user_key(spec, purpose)
    object_class, key_type = kind(spec, purpose)
    before, session.doing = session.doing, Doing.OPENING
    key = under.unwrap_key(
        object_class,
        key_type,
        wrapped,
        mechanism=KWP_MECHANISM,
        template=asked(template),
    )
    try:
        require(key, template, label="an opened key")
        _compare(key, spec, purpose, public_key, len(wrapped))
    except (PKCS11Error, VaultError):
        destroy(key)
        raise
    session.doing = before
    return key


def _compare(
    key: Any, spec: KeySpec, purpose: Purpose, public_key: bytes, wrapped: int
) -> None:
    """Raise WrappedKeyInvalid unless the key has the size and public half recorded."""
    if spec.type is KeyType.OCT:
        # SoftHSM leaves CKA_VALUE_LEN at 0 when it unwraps; but oct keys have multiples
        # of 8 bytes, and KWP adds 8.
        same = wrapped == spec.bits // 8 + _KWP_MORE and not public_key
    else:
        half = public.require_spec(public_key, spec)
        if isinstance(half, rsa.RSAPublicKey):
            modulus, exponent = (
                int.from_bytes(part, "big")
                for part in key.get_attributes(
                    (Attribute.MODULUS, Attribute.PUBLIC_EXPONENT)
                ).values()
            )
            same = half.public_numbers() == rsa.RSAPublicNumbers(exponent, modulus)
        else:
            # A private EC key does not show its point: it proves itself by signing.
            assert purpose is Purpose.SIGN
            signature = key.sign(_DIGEST, mechanism=Mechanism.ECDSA)
            same = public.verify(half, _PROOF, _DIGEST, signature)
    if not same:
        raise WrappedKeyInvalid(
            "a stored wrapped key opens as another key than its record says"
        )
