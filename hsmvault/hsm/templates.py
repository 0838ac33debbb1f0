"""What every object in a partition may do: the tables that the token itself enforces.

Whoever holds the user PIN can send any call to the token. What they cannot do is
decided by these attributes alone, so each comment names the attack that the line stops;
`tests/attack` runs each of them, with and without the line.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

from pkcs11.constants import DEFAULT, Attribute, ObjectClass
from pkcs11.mechanisms import KeyType as CkKeyType
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm.attributes import NESTED, Template
from hsmvault.hsm.labels import object_id
from hsmvault.model.algorithms import KeySpec, KeyType
from hsmvault.model.errors import TemplateViolated

KWP_MECHANISM: Final = Mechanism.AES_KEY_WRAP_PAD
"""RFC 5649 as SoftHSM numbers it (0x210A); PKCS#11 3.0 calls it AES_KEY_WRAP_KWP."""

KEY_BYTES: Final = 32
"""Length of every infrastructure secret. Not in the tables: SoftHSM shows no length of
a key that was unwrapped; there the digest in the transcript vouches for it."""

NOTHING: Final[Template] = MappingProxyType(
    {
        Attribute.ENCRYPT: False,
        Attribute.DECRYPT: False,
        Attribute.SIGN: False,
        Attribute.VERIFY: False,
        Attribute.WRAP: False,
        Attribute.UNWRAP: False,
        # A derived key would inherit the bytes, and not the fences around them.
        Attribute.DERIVE: False,
    }
)
"""The uses of a secret key, all refused; each table grants its own on top."""

WRAP_TEMPLATE: Final[Template] = MappingProxyType(
    # A wrapping key that can wrap itself can be re-opened with DECRYPT, and then peels
    # everything it ever wrapped. Token objects are infrastructure: never wrapped.
    {Attribute.TOKEN: False, Attribute.PRIVATE: True}
)
"""What the region key and outbound pair keys may wrap: user keys, and only those."""

UNWRAP_TEMPLATE: Final[Template] = MappingProxyType(
    {
        # No user key is parked as a token object.
        Attribute.TOKEN: False,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        # It must be wrapped again for other regions …
        Attribute.EXTRACTABLE: True,
        # … but only by keys that the security officer has trusted.
        Attribute.WRAP_WITH_TRUSTED: True,
        # CONCATENATE_BASE_AND_DATA would give a key without WRAP_WITH_TRUSTED.
        Attribute.DERIVE: False,
        # Last: MODIFIABLE false makes whatever follows it read-only.
        Attribute.COPYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""What anything unwrapped must be. The call must repeat all of it, equal."""

_INSTALLED: Final[Template] = MappingProxyType(
    {
        # A public object lies in clear in the token's files, and anyone without a PIN
        # could destroy it or plant a look-alike.
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
    }
)

_WRAPPING: Final[Template] = MappingProxyType(
    {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: CkKeyType.AES,
        **NOTHING,
        Attribute.SENSITIVE: True,
        # So that a ceremony can bring it to a sibling; WRAP_WITH_TRUSTED keeps everyone
        # but the security officer from doing so.
        Attribute.EXTRACTABLE: True,
        Attribute.WRAP_WITH_TRUSTED: True,
        # Only the security officer can set it, so only ceremonies admit recipients.
        Attribute.TRUSTED: True,
        # Unwrapping by AES-CBC-PAD would be a padding oracle on all that it wrapped.
        Attribute.ALLOWED_MECHANISMS: frozenset({KWP_MECHANISM}),
        Attribute.WRAP_TEMPLATE: WRAP_TEMPLATE,
        Attribute.UNWRAP_TEMPLATE: UNWRAP_TEMPLATE,
    }
)

REGION_KEY: Final[Template] = MappingProxyType(
    {
        **_WRAPPING,
        Attribute.WRAP: True,
        Attribute.UNWRAP: True,
        **_INSTALLED,
        Attribute.DESTROYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""The key that wraps everything that rests in a region. Equal in its partitions."""

PAIR_OUT: Final[Template] = MappingProxyType(
    {
        **_WRAPPING,
        Attribute.WRAP: True,
        **_INSTALLED,
        Attribute.DESTROYABLE: True,
        Attribute.MODIFIABLE: False,
    }
)
"""Wraps what travels to one other region. Here, at the sender, it opens nothing."""

PAIR_IN: Final[Template] = MappingProxyType(
    {
        **_WRAPPING,
        Attribute.UNWRAP: True,
        **_INSTALLED,
        Attribute.DESTROYABLE: True,
        Attribute.MODIFIABLE: False,
    }
)
"""Opens what comes from one other region. Here, at the receiver, it wraps nothing."""

INTEGRITY_KEY: Final[Template] = MappingProxyType(
    {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: CkKeyType.GENERIC_SECRET,
        **NOTHING,
        Attribute.SIGN: True,
        Attribute.VERIFY: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: True,
        Attribute.WRAP_WITH_TRUSTED: True,
        Attribute.TRUSTED: False,
        Attribute.ALLOWED_MECHANISMS: frozenset({Mechanism.SHA256_HMAC}),
        **_INSTALLED,
        Attribute.DESTROYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""MACs the records of one region's store. It is in no store, wrapped or otherwise."""

IDENTITY_KEY: Final[Template] = MappingProxyType(
    {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.KEY_TYPE: CkKeyType.EC,
        Attribute.SIGN: True,
        Attribute.DECRYPT: False,
        Attribute.UNWRAP: False,
        Attribute.DERIVE: False,
        Attribute.SENSITIVE: True,
        # Born in the partition and never outside it: its signature is the partition's.
        Attribute.EXTRACTABLE: False,
        Attribute.ALLOWED_MECHANISMS: frozenset({Mechanism.ECDSA}),
        **_INSTALLED,
        Attribute.DESTROYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""Speaks for one partition: signs log heads, and transcripts of ceremonies."""


class Purpose(StrEnum):
    """What a user key is opened for. One object serves one purpose.

    A key that could wrap and decrypt, or encrypt and unwrap, would let whoever reaches
    the session turn one use against the other.
    """

    NOTHING = "nothing"
    """Fresh material that is only to be wrapped and then dropped."""
    SIGN = "sign"
    CIPHER = "cipher"
    CBC = "cbc"
    """Apart from CIPHER: only who asks for CBC has a key open that does it. Without
    authentication, each block that it decrypts is AES backwards, as in ECB."""
    WRAP = "wrap"


_Use = tuple[Template, frozenset[Mechanism]]

_USES: Final[Mapping[tuple[KeyType, Purpose], _Use]] = MappingProxyType(
    {
        (KeyType.RSA, Purpose.SIGN): (
            {Attribute.SIGN: True},
            frozenset({Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS}),
        ),
        (KeyType.RSA, Purpose.CIPHER): (
            {Attribute.DECRYPT: True},
            # Raw RSA, for OAEP with hashes that the token does not have, and for
            # PKCS #1 v1.5, of whose bad padding no token may tell.
            frozenset({Mechanism.RSA_PKCS_OAEP, Mechanism.RSA_X_509}),
        ),
        (KeyType.EC, Purpose.SIGN): (
            {Attribute.SIGN: True},
            frozenset({Mechanism.ECDSA}),
        ),
        (KeyType.OCT, Purpose.CIPHER): (
            {Attribute.ENCRYPT: True, Attribute.DECRYPT: True},
            frozenset({Mechanism.AES_GCM}),
        ),
        (KeyType.OCT, Purpose.CBC): (
            {Attribute.ENCRYPT: True, Attribute.DECRYPT: True},
            frozenset({Mechanism.AES_CBC}),
        ),
        (KeyType.OCT, Purpose.SIGN): (
            # Not VERIFY: tokens do not promise to compare in constant time.
            {Attribute.SIGN: True},
            frozenset(
                {
                    Mechanism.SHA256_HMAC,
                    Mechanism.SHA384_HMAC,
                    Mechanism.SHA512_HMAC,
                }
            ),
        ),
        (KeyType.OCT, Purpose.WRAP): (
            {Attribute.WRAP: True, Attribute.UNWRAP: True},
            frozenset({Mechanism.AES_KEY_WRAP}),
        ),
    }
)

_AES_BITS_MAX: Final = 256


def kind(spec: KeySpec, purpose: Purpose) -> tuple[ObjectClass, CkKeyType]:
    """Return the class and type that a user key has in the token.

    Tokens refuse HMAC with an AES key, so for HMAC the same bytes are opened as a
    generic secret; and longer ones than AES takes never are anything else.
    """
    if spec.type is KeyType.RSA:
        return ObjectClass.PRIVATE_KEY, CkKeyType.RSA
    if spec.type is KeyType.EC:
        return ObjectClass.PRIVATE_KEY, CkKeyType.EC
    if purpose is Purpose.SIGN or spec.bits > _AES_BITS_MAX:
        return ObjectClass.SECRET_KEY, CkKeyType.GENERIC_SECRET
    return ObjectClass.SECRET_KEY, CkKeyType.AES


def first_purpose(spec: KeySpec) -> Purpose:
    """What a key is opened for when it is only to be checked or wrapped again."""
    if spec.type is KeyType.OCT and spec.bits <= _AES_BITS_MAX:
        return Purpose.CIPHER
    return Purpose.SIGN


_PRIVATE_USES: Final = (
    Attribute.DECRYPT,
    Attribute.SIGN,
    Attribute.UNWRAP,
    Attribute.DERIVE,
)


def user_key(spec: KeySpec, purpose: Purpose) -> Template:
    """Return the session object of a user key's secret or private half, to check.

    The same table serves generating and opening: see `asked`.
    """
    object_class, key_type = kind(spec, purpose)
    secret = object_class is ObjectClass.SECRET_KEY
    uses = NOTHING if secret else dict.fromkeys(_PRIVATE_USES, False)
    granted: Template = {}
    # KWP is what wraps it, not what it does: with no purpose it does nothing at all.
    allowed = frozenset[Mechanism]()
    if purpose is not Purpose.NOTHING:
        granted, allowed = _USES[spec.type, purpose]
    fences = dict(UNWRAP_TEMPLATE)
    last = {a: fences.pop(a) for a in (Attribute.COPYABLE, Attribute.MODIFIABLE)}
    return MappingProxyType(
        {
            Attribute.CLASS: object_class,
            Attribute.KEY_TYPE: key_type,
            **uses,
            **granted,
            **({Attribute.ALLOWED_MECHANISMS: allowed} if allowed else {}),
            **fences,
            **last,
        }
    )


PUBLIC_HALF: Final[Template] = MappingProxyType(
    {
        Attribute.TOKEN: False,
        Attribute.PRIVATE: False,
        Attribute.ENCRYPT: False,
        Attribute.VERIFY: False,
        Attribute.WRAP: False,
    }
)
"""The public half of a fresh user key: only its numbers are wanted."""


def asked(template: Template) -> dict[Attribute, object]:
    """Return a table as python-pkcs11's `template=` for generating or unwrapping.

    Uses that the object's class does not have are marked DEFAULT, because python-pkcs11
    would otherwise send them all, and tokens refuse those of another class.
    """
    return {
        **{a: DEFAULT for a in NOTHING if a not in template},
        **{a: v for a, v in template.items() if a not in _GIVEN_BY_CALL},
    }


_GIVEN_BY_CALL: Final = frozenset({Attribute.CLASS, Attribute.KEY_TYPE})


def searchable(template: Template, label: str) -> dict[Attribute, object]:
    """Return what C_FindObjects can compare: every simple attribute, label and id.

    Whoever finds with it must find exactly one, and then read back the rest.
    """
    return {
        **{a: v for a, v in template.items() if a not in _NOT_COMPARED},
        Attribute.LABEL: label,
        Attribute.ID: object_id(label),
    }


_NOT_COMPARED: Final = NESTED | {Attribute.ALLOWED_MECHANISMS}


class HasAttributes(Protocol):
    """An object of python-pkcs11."""

    def get_attributes(self, keys: list[Attribute], /) -> Mapping[Attribute, object]:
        """Read these attributes in one call."""


def require(key: HasAttributes, template: Template, *, label: str = "key") -> None:
    """Refuse a session object of python-pkcs11 that is not what its template says.

    Called after generating and after opening: a template is a request, and only the
    token knows what it granted. For infrastructure keys, whose tables hold templates
    themselves, read them with `Cryptoki.attributes` and call `require_equal`.
    """
    wanted = [a for a in template if a not in NESTED]
    require_equal(key.get_attributes(wanted), template, label=label)


def require_equal(
    shown: Mapping[Attribute, object], template: Template, *, label: str = "key"
) -> None:
    """Raise TemplateViolated, naming the attributes that are not as in `template`."""
    wrong = [a for a, wanted in template.items() if not _same(shown.get(a), wanted)]
    if wrong:
        raise TemplateViolated(
            "{label} in the token is not as specified: {wrong}; it was not used",
            label=label,
            wrong=", ".join(a.name for a in wrong),
        )


def _same(shown: object, wanted: object) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(shown, Mapping) and dict(shown) == dict(wanted)
    return shown is not None and shown == wanted
