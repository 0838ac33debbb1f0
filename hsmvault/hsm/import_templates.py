"""What the keys may do by which other keys are brought in: tables for the token."""

from types import MappingProxyType
from typing import Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType as CkKeyType
from pkcs11.mechanisms import Mechanism

from hsmvault.hsm.attributes import Template
from hsmvault.hsm.templates import KWP_MECHANISM, NOTHING, UNWRAP_TEMPLATE

CARRIER_FENCES: Final[Template] = MappingProxyType(
    {
        # What arrives by OAEP can only be the AES key that carries another key …
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: CkKeyType.AES,
        **NOTHING,
        # … which it opens, and does nothing else: with DECRYPT or in the clear, it
        # would give away whatever came with it.
        Attribute.UNWRAP: True,
        Attribute.ALLOWED_MECHANISMS: frozenset({KWP_MECHANISM}),
        Attribute.TOKEN: False,
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.COPYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""What anything must be that an import's wrapping key unwraps."""

CARRIER: Final[Template] = MappingProxyType(
    {
        **{
            a: v
            for a, v in CARRIER_FENCES.items()
            if a not in {Attribute.COPYABLE, Attribute.MODIFIABLE}
        },
        # SoftHSM keeps no template in a template, so no wrapping key can demand this
        # line: that is why wrapping keys are in no token, and in no store.
        Attribute.UNWRAP_TEMPLATE: UNWRAP_TEMPLATE,
        Attribute.COPYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""The AES key that a key arrives under: open for one unwrapping."""

IMPORT_KEY: Final[Template] = MappingProxyType(
    {
        Attribute.CLASS: ObjectClass.PRIVATE_KEY,
        Attribute.KEY_TYPE: CkKeyType.RSA,
        Attribute.UNWRAP: True,
        # With DECRYPT, or by raw RSA, it would give the carrier away.
        Attribute.DECRYPT: False,
        Attribute.SIGN: False,
        Attribute.DERIVE: False,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.ALLOWED_MECHANISMS: frozenset({Mechanism.RSA_PKCS_OAEP}),
        Attribute.UNWRAP_TEMPLATE: CARRIER_FENCES,
        # A session object: nobody but this process can reach it, and it ends with it.
        Attribute.TOKEN: False,
        Attribute.PRIVATE: True,
        Attribute.COPYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""The private half of an import's wrapping key: it unwraps one carrier."""
