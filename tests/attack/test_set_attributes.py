"""The attribute cycle (Clulow, 2003): let a key do something else after the fact.

The attacker has the user PIN. They switch DECRYPT on for a key that wrapped others, or
its fences off, with C_SetAttributeValue.
"""

import pytest
from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from hsmvault.hsm.templates import REGION_KEY
from tests.attack.scene import Scene, ThrowAway
from tests.support.stranger import Value

CHANGES: tuple[tuple[str, Value], ...] = (
    ("DECRYPT", True),
    ("ENCRYPT", True),
    ("DERIVE", True),
    ("SENSITIVE", False),
    ("EXTRACTABLE", False),
    ("WRAP_WITH_TRUSTED", False),
    ("TRUSTED", True),
    ("TRUSTED", False),
    ("MODIFIABLE", True),
    ("COPYABLE", True),
    ("DESTROYABLE", True),
    ("PRIVATE", False),
    ("TOKEN", False),
    ("LABEL", b"mine"),
    ("ALLOWED_MECHANISMS", frozenset({0x1081})),
    ("WRAP_TEMPLATE", (("TOKEN", True),)),
    ("UNWRAP_TEMPLATE", (("TOKEN", True),)),
)

INFRASTRUCTURE = (
    labels.region_key("north"),
    labels.integrity_key("north"),
    labels.identity_key("north", "p0"),
    labels.pair_key("north", "south"),
    labels.pair_key("south", "north"),
)


@pytest.mark.parametrize("label", INFRASTRUCTURE)
def test_no_attribute_of_an_infrastructure_key_changes(
    scene: Scene, label: str
) -> None:
    key = scene.named(label)

    for change in CHANGES:
        reply = scene.stranger.set(key, change)

        assert reply.rv in {"CKR_ACTION_PROHIBITED", "CKR_ATTRIBUTE_READ_ONLY"}, change


def test_no_attribute_of_an_open_user_key_changes(scene: Scene) -> None:
    key = scene.aes("ENCRYPT")

    for change in CHANGES:
        reply = scene.stranger.set(key, change)

        assert reply.rv in {"CKR_ACTION_PROHIBITED", "CKR_ATTRIBUTE_READ_ONLY"}, change


def test_without_modifiable_false_the_region_key_learns_to_decrypt(
    throwaway: ThrowAway,
) -> None:
    key = throwaway.install(REGION_KEY, Attribute.MODIFIABLE)

    reply = throwaway.stranger.set(key, ("DECRYPT", True))

    assert reply.ok
    assert throwaway.stranger.get(key, "DECRYPT").data == b"\x01"
