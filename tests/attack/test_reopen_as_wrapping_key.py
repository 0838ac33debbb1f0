"""One key in two roles: a user key re-opened with WRAP and DECRYPT wraps others.

The attacker has the user PIN and the store. What a user key may do is chosen by whoever
opens it, so this opens; but only a TRUSTED key wraps another.
"""

import pytest

from hsmvault.hsm import labels
from tests.attack.scene import KWP, Scene, fences, must, opened_as
from tests.support.stranger import AES, RSA

WRAP_AND_DECRYPT = ("WRAP", "UNWRAP", "ENCRYPT", "DECRYPT")


def test_it_wraps_no_other_user_key(scene: Scene) -> None:
    mine = scene.aes(*WRAP_AND_DECRYPT)

    for target in (scene.aes("ENCRYPT"), mine):
        reply = scene.stranger.wrap(KWP, under=mine, key=target)

        assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


@pytest.mark.parametrize(
    "label",
    [
        labels.region_key("north"),
        labels.integrity_key("north"),
        labels.pair_key("north", "south"),
        labels.pair_key("south", "north"),
    ],
)
def test_it_wraps_no_infrastructure_key(scene: Scene, label: str) -> None:
    mine = scene.aes(*WRAP_AND_DECRYPT)

    reply = scene.stranger.wrap(KWP, under=mine, key=scene.named(label))

    assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


def test_what_it_unwraps_is_no_more_trusted_than_itself(scene: Scene) -> None:
    # The attacker encrypts a key they know, and unwraps it with the same user key.
    mine = scene.aes(*WRAP_AND_DECRYPT)
    blob = scene.stranger.use("Encrypt", "AES_ECB", mine, bytes(32)).data
    template = [*opened_as(AES, "WRAP"), ("TOKEN", False)]
    known = scene.stranger.unwrap(
        "AES_CBC", under=mine, wrapped=blob[:16], template=template, iv=bytes(16)
    )

    if known.ok:
        reply = scene.stranger.wrap(KWP, under=known.handle, key=scene.aes("ENCRYPT"))
        assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"
    else:
        assert known.rv == "CKR_MECHANISM_INVALID"


def test_an_rsa_key_opened_for_unwrapping_gains_nothing(scene: Scene) -> None:
    mine = must(
        scene.open(
            scene.wrapped_rsa,
            opened_as(RSA, "UNWRAP", "DECRYPT", "SIGN", object_class=3) + fences(),
        )
    )

    reply = scene.stranger.wrap(KWP, under=scene.region_key, key=mine)

    # It comes out as it went in: under the region key, and under nothing else.
    assert reply.ok
    assert scene.open(reply.data, opened_as(RSA, object_class=3)).rv == (
        "CKR_TEMPLATE_INCONSISTENT"
    )
