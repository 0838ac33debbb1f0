"""Destroying what everything rests on.

The attacker has the user PIN and wants the region gone rather than read.
"""

import pytest
from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from hsmvault.hsm.templates import REGION_KEY
from tests.attack.scene import Scene, ThrowAway


@pytest.mark.parametrize(
    "label",
    [
        labels.region_key("north"),
        labels.integrity_key("north"),
        labels.identity_key("north", "p0"),
    ],
)
def test_what_a_region_is_made_of_is_not_destroyed(scene: Scene, label: str) -> None:
    key = scene.named(label)

    reply = scene.stranger.destroy(key)

    assert reply.rv == "CKR_ACTION_PROHIBITED"
    assert scene.named(label) == key


def test_without_destroyable_false_the_region_key_is_gone(
    throwaway: ThrowAway,
) -> None:
    key = throwaway.install(REGION_KEY, Attribute.DESTROYABLE)

    assert throwaway.stranger.destroy(key).ok
