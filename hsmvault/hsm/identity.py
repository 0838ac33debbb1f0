"""The key that speaks for one partition: made in it, and never outside it."""

from types import MappingProxyType
from typing import Final

from pkcs11.constants import Attribute, ObjectClass
from pkcs11.mechanisms import KeyType, Mechanism

from hsmvault.hsm import labels
from hsmvault.hsm.attributes import Template
from hsmvault.hsm.custody import Custody
from hsmvault.hsm.templates import IDENTITY_KEY
from hsmvault.hsm.transcript import digest_of, p256_spki, require_signed
from hsmvault.model.errors import IntegrityFailure

_P256: Final = bytes.fromhex("06082a8648ce3d030107")

_IDENTITY_PUBLIC: Final[Template] = MappingProxyType(
    {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: KeyType.EC,
        Attribute.EC_PARAMS: _P256,
        Attribute.VERIFY: False,
        Attribute.ENCRYPT: False,
        Attribute.WRAP: False,
        Attribute.DERIVE: False,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.DESTROYABLE: False,
        Attribute.MODIFIABLE: False,
    }
)
"""Kept so that it can be read again; nobody verifies with it."""


def birth(custody: Custody, session: int, region: str, partition: str) -> bytes:
    """Make it, unless it is there; returns its public half, SubjectPublicKeyInfo."""
    label = labels.identity_key(region, partition)
    if not custody.present(session, label, IDENTITY_KEY):
        name = {Attribute.LABEL: label, Attribute.ID: labels.object_id(label)}
        custody.cryptoki.generate_pair(
            session,
            Mechanism.EC_KEY_PAIR_GEN,
            public=name | dict(_IDENTITY_PUBLIC),
            private=name | dict(IDENTITY_KEY),
        )
    # The label proves nothing: the public half is the one that verifies.
    challenge = custody.cryptoki.random(session, 32)
    signature = sign(custody, session, label, challenge)
    for half in custody.labelled(session, label, _IDENTITY_PUBLIC):
        shown = custody.cryptoki.attributes(session, half, [Attribute.EC_POINT])
        point = shown.get(Attribute.EC_POINT)
        public = p256_spki(point if isinstance(point, bytes) else b"")
        try:
            require_signed(challenge, signature, public, by=label)
        except IntegrityFailure:
            continue
        return public
    raise IntegrityFailure(
        "no public half in the token goes with {label}; wipe the token",
        label=label,
    )


def sign(custody: Custody, session: int, label: str, statement: bytes) -> bytes:
    """Sign with the identity key of this label: ECDSA over SHA-256, raw r‖s."""
    key = custody.select(session, label, IDENTITY_KEY)
    return custody.cryptoki.sign(
        session, Mechanism.ECDSA, key=key, data=digest_of(statement)
    )
