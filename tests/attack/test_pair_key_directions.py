"""Against the direction of a pair key: what came is wrapped, what went is opened.

The attacker has the user PIN of one region, and the traffic between both. Were a pair
key a copy that works both ways, each side could open what it only ever sent.
"""

from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from hsmvault.hsm.templates import PAIR_OUT
from tests.attack.scene import KWP, Scene, ThrowAway, fences, must, opened_as
from tests.support.stranger import AES

OUT = labels.pair_key("north", "south")
IN = labels.pair_key("south", "north")


def test_an_inbound_pair_key_wraps_nothing(scene: Scene) -> None:
    target = scene.aes("ENCRYPT")

    reply = scene.stranger.wrap(KWP, under=scene.named(IN), key=target)

    assert reply.rv == "CKR_KEY_FUNCTION_NOT_PERMITTED"


def test_an_outbound_pair_key_opens_nothing(scene: Scene) -> None:
    out = scene.named(OUT)
    sent = scene.stranger.wrap(KWP, under=out, key=scene.aes("ENCRYPT"))
    assert sent.ok

    reply = scene.stranger.unwrap(
        KWP,
        under=out,
        wrapped=sent.data,
        template=opened_as(AES, "ENCRYPT") + fences(),
    )

    assert reply.rv == "CKR_KEY_FUNCTION_NOT_PERMITTED"


def test_a_pair_key_for_both_directions_opens_what_it_sent(
    throwaway: ThrowAway,
) -> None:
    scene = throwaway.scene()
    both = throwaway.install(PAIR_OUT, changed={Attribute.UNWRAP: True})
    sent = scene.stranger.wrap(
        KWP,
        under=both,
        key=must(
            scene.stranger.generate("AES_KEY_GEN", [("VALUE_LEN", 32), *fences()])
        ),
    )

    reply = scene.stranger.unwrap(
        KWP,
        under=both,
        wrapped=sent.data,
        template=opened_as(AES, "ENCRYPT") + fences(),
    )

    assert reply.ok
