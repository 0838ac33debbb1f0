"""A clone of the region key as a session object.

The attacker has the user PIN. The region key wraps what is a private session object; a
clone of itself as one would be wrapped like a user key, re-opened, and peel everything.
"""

import pytest
from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from tests.attack.peel import is_key, unwrap
from tests.attack.scene import KWP, Pairs, Scene, ThrowAway, fences, must, opened_as
from tests.support.stranger import AES

CLONES: tuple[Pairs, ...] = (
    [("TOKEN", False)],
    [("TOKEN", False), ("PRIVATE", True)],
    [("TOKEN", False), ("PRIVATE", False)],
    [("MODIFIABLE", True), ("TOKEN", False)],
    [("TOKEN", False), ("DECRYPT", True)],
)


@pytest.mark.parametrize("changes", CLONES)
@pytest.mark.parametrize(
    "label",
    [
        labels.region_key("north"),
        labels.pair_key("north", "south"),
        labels.pair_key("south", "north"),
        labels.integrity_key("north"),
    ],
)
def test_no_infrastructure_key_is_cloned_into_the_session(
    scene: Scene, label: str, changes: Pairs
) -> None:
    reply = scene.stranger.copy(scene.named(label), changes)

    assert reply.rv in {
        "CKR_ACTION_PROHIBITED",
        "CKR_ATTRIBUTE_READ_ONLY",
        "CKR_TEMPLATE_INCONSISTENT",
    }


def test_without_modifiable_false_the_clone_peels_everything(
    throwaway: ThrowAway,
) -> None:
    scene = throwaway.scene(Attribute.MODIFIABLE)
    stranger = scene.stranger

    clone = must(stranger.copy(scene.region_key, [("TOKEN", False)]))

    wrapped = stranger.wrap(KWP, under=scene.region_key, key=clone)
    twin = must(scene.open(wrapped.data, opened_as(AES, "DECRYPT") + fences()))
    value = unwrap(
        scene.wrapped_aes,
        lambda block: stranger.use("Decrypt", "AES_ECB", twin, block).data,
    )
    assert is_key(value, stranger.digest_key(scene.aes("ENCRYPT")).data)
