"""What a token enforces, found by trying what it must refuse. With the user PIN only.

The standard lets a token ignore an attribute in silence, so nothing is believed that
was not tried: each trial plays an attack that the attribute is there to stop, on
session objects that die with the session.
"""

from collections.abc import Callable, Mapping
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import Any, Final

from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from pkcs11 import PKCS11Error
from pkcs11.constants import Attribute, MechanismFlag, ObjectClass
from pkcs11.mechanisms import KeyType as CkKeyType
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm.opened import destroy
from hsmvault.hsm.templates import KWP_MECHANISM, UNWRAP_TEMPLATE, WRAP_TEMPLATE
from hsmvault.model.errors import ConfigurationError

_BITS: Final = 256
_WRAPS: Final = MechanismFlag.WRAP | MechanismFlag.UNWRAP


class Profile(IntEnum):
    """How much of the arrangement a token carries: more is stronger."""

    BASIC = 1
    """User PIN and store together are enough to take keys out. Said at every start."""
    OFFICER_TRUSTED = 2
    """The officer marks a key that the user made: the user could have kept a copy."""
    HARDENED = 3
    """Whoever holds the user PIN and the store can use keys, and take none out."""

    @property
    def named(self) -> str:
        """The profile's name in region.toml."""
        return self.name.lower().replace("_", "-")


def _key(session: Any, uses: MechanismFlag | int = 0, **attributes: object) -> Any:
    return session.generate_key(
        CkKeyType.AES,
        _BITS,
        capabilities=uses,
        template={
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: True,
            **{Attribute[name]: value for name, value in attributes.items()},
        },
    )


# Each attack is given a session and whether the fence is up, and answers whether it
# got through. An error is a refusal; what it sets up first is known to work, because
# the same attack must get through where the fence is down.


def _reads_the_value(session: Any, *, fenced: bool) -> bool:
    return bool(_key(session, SENSITIVE=fenced)[Attribute.VALUE])


def _wraps_without_trust(session: Any, *, fenced: bool) -> bool:
    target = _key(session, WRAP_WITH_TRUSTED=fenced)
    own = _key(session, _WRAPS)
    return bool(own.wrap_key(target, mechanism=KWP_MECHANISM))


def _takes_the_fence_off(session: Any, *, fenced: bool) -> bool:
    # Without a fence to take off, any attribute will do: that attributes can be set.
    key = _key(session, WRAP_WITH_TRUSTED=True)
    taken = Attribute.WRAP_WITH_TRUSTED if fenced else Attribute.ENCRYPT
    key[taken] = not fenced
    return bool(key[taken]) is not fenced


def _trusts_its_own(session: Any, *, fenced: bool) -> bool:
    key = _key(session, _WRAPS, TRUSTED=fenced)
    return bool(key[Attribute.TRUSTED]) is fenced


def _escapes_its_mechanism(session: Any, *, fenced: bool) -> bool:
    allowed = {Mechanism.AES_GCM} if fenced else {Mechanism.AES_GCM, Mechanism.AES_ECB}
    key = _key(
        session,
        MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        ALLOWED_MECHANISMS=frozenset(allowed),
    )
    return bool(key.encrypt(bytes(16), mechanism=Mechanism.AES_ECB))


def _wraps_outside_its_template(session: Any, *, fenced: bool) -> bool:
    own = _key(session, _WRAPS, WRAP_TEMPLATE=WRAP_TEMPLATE)
    # The template asks for private objects.
    target = _key(session, PRIVATE=not fenced)
    return bool(own.wrap_key(target, mechanism=KWP_MECHANISM))


def _opens_outside_its_template(session: Any, *, fenced: bool) -> bool:
    own = _key(session, _WRAPS, UNWRAP_TEMPLATE=UNWRAP_TEMPLATE)
    wrapped = own.wrap_key(_key(session), mechanism=KWP_MECHANISM)
    asked = {**UNWRAP_TEMPLATE}
    if fenced:
        asked[Attribute.SENSITIVE] = asked[Attribute.WRAP_WITH_TRUSTED] = False
    opened = own.unwrap_key(
        ObjectClass.SECRET_KEY,
        CkKeyType.AES,
        wrapped,
        mechanism=KWP_MECHANISM,
        template=asked,
    )
    # A token may merge instead of refusing: then what came out is as it should be.
    return all(
        bool(opened[a]) is asked[a]
        for a in (Attribute.SENSITIVE, Attribute.WRAP_WITH_TRUSTED)
    )


def _copies(session: Any, *, fenced: bool) -> bool:
    key = _key(session, COPYABLE=not fenced)
    return key.copy({Attribute.TOKEN: False}) is not None


def _changes(session: Any, *, fenced: bool) -> bool:
    key = _key(session, MODIFIABLE=not fenced)
    key[Attribute.DECRYPT] = True
    return bool(key[Attribute.DECRYPT])


ATTACKS: Final[Mapping[str, Callable[..., bool]]] = MappingProxyType(
    {
        "SENSITIVE: a key's value cannot be read": _reads_the_value,
        "WRAP_WITH_TRUSTED: no key of the user's wraps it": _wraps_without_trust,
        "WRAP_WITH_TRUSTED: it cannot be taken off": _takes_the_fence_off,
        "TRUSTED: only the officer sets it": _trusts_its_own,
        "ALLOWED_MECHANISMS: a key does nothing else": _escapes_its_mechanism,
        "WRAP_TEMPLATE: a key wraps nothing else": _wraps_outside_its_template,
        "UNWRAP_TEMPLATE: a key opens nothing else": _opens_outside_its_template,
        "COPYABLE: no copies": _copies,
        "MODIFIABLE: no changes": _changes,
    }
)
"""What must hold for the hardened profile, and the attack that would show otherwise."""


def tried(session: Any) -> Mapping[str, bool]:
    """Try each attack; return, for each, whether the token held against it.

    Held means: it got through without the fence, and not with it. `session` is one
    that the caller closes: the objects are left to die with it.
    """
    return {
        what: _succeeds(attack, session, fenced=False)
        and not _succeeds(attack, session, fenced=True)
        for what, attack in ATTACKS.items()
    }


def _succeeds(attack: Callable[..., bool], session: Any, *, fenced: bool) -> bool:
    try:
        return attack(session, fenced=fenced)
    except PKCS11Error:
        return False


def profile(held: Mapping[str, bool]) -> Profile:
    """Name the profile that such a token can carry.

    That the officer, and not the user, made the region key is the ceremony's doing: a
    token that holds against everything carries `hardened` if its ceremony was ours.
    """
    return Profile.HARDENED if all(held.values()) else Profile.BASIC


def require_profile(session: Any, demanded: str, *, token: str) -> Profile:
    """Return what the token enforces, or raise ConfigurationError if it is too little.

    The session is used up: close it.
    """
    names = {p.named: p for p in Profile}
    if demanded not in names:
        message = f"profile = {demanded!r}; choose one of {', '.join(names)}"
        raise ConfigurationError(message)
    held = tried(session)
    found = profile(held)
    if found < names[demanded]:
        broken = "; ".join(what for what, holds in held.items() if not holds)
        message = (
            f"token {token!r} enforces the {found.named} profile, and region.toml "
            f"demands {demanded}. Not held: {broken}. Use another token, or accept in "
            "region.toml what the documentation says of the weaker profile"
        )
        raise ConfigurationError(message)
    return found


class Kwp(Enum):
    """What a mechanism's number means in this token."""

    EXACT = "RFC 5649"
    ZEROS = "RFC 5649, with zeros appended to keys that are no multiple of 8 bytes"
    """SoftHSM 2.6.1. Harmless to DER, which says where it ends."""
    OTHER = "not offered, or something else"


def kwp(session: Any, mechanism: Mechanism) -> Kwp:
    """Find out by wrapping known bytes under a known key."""
    key, odd, even = (bytes(range(size)) for size in (32, 20, 32))
    if _wrapped(session, mechanism, key, even) != aes_key_wrap_with_padding(key, even):
        return Kwp.OTHER
    if _wrapped(session, mechanism, key, odd) == aes_key_wrap_with_padding(key, odd):
        return Kwp.EXACT
    return Kwp.ZEROS


def _wrapped(session: Any, mechanism: Mechanism, key: bytes, data: bytes) -> bytes:
    known = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.TOKEN: False,
        Attribute.SENSITIVE: False,
        Attribute.EXTRACTABLE: True,
    }
    under = session.create_object(
        {
            **known,
            Attribute.KEY_TYPE: CkKeyType.AES,
            Attribute.VALUE: key,
            Attribute.WRAP: True,
        }
    )
    target = session.create_object(
        {**known, Attribute.KEY_TYPE: CkKeyType.GENERIC_SECRET, Attribute.VALUE: data}
    )
    try:
        return bytes(under.wrap_key(target, mechanism=mechanism))
    except PKCS11Error:
        return b""
    finally:
        destroy(under)
        destroy(target)
