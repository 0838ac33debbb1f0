"""A region key that wraps itself, or others of its kind (double unwrapping).

The attacker has the user PIN and the store. They wrap the region key under itself or
under a pair key, re-open it with DECRYPT, and peel everything that it ever wrapped.
"""

import pytest
from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from tests.attack.peel import is_key, unwrap
from tests.attack.scene import KWP, Scene, ThrowAway, fences, must, opened_as
from tests.support.stranger import AES

REGION = labels.region_key("north")
INTEGRITY = labels.integrity_key("north")
OUT = labels.pair_key("north", "south")
IN = labels.pair_key("south", "north")


@pytest.mark.parametrize(
    ("under", "key"),
    [
        (REGION, REGION),
        (REGION, OUT),
        (REGION, IN),
        (REGION, INTEGRITY),
        (OUT, REGION),
        (OUT, OUT),
        (OUT, IN),
        (OUT, INTEGRITY),
    ],
)
def test_no_infrastructure_key_wraps_another(
    scene: Scene, under: str, key: str
) -> None:
    reply = scene.stranger.wrap(KWP, under=scene.named(under), key=scene.named(key))

    assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


@pytest.mark.parametrize("under", [REGION, OUT])
def test_no_infrastructure_key_wraps_the_identity_key(scene: Scene, under: str) -> None:
    identity = scene.named(labels.identity_key("north", "p0"))

    reply = scene.stranger.wrap(KWP, under=scene.named(under), key=identity)

    assert reply.rv == "CKR_KEY_UNEXTRACTABLE"


def test_without_wrap_template_everything_is_peeled(throwaway: ThrowAway) -> None:
    scene = throwaway.scene(Attribute.WRAP_TEMPLATE)

    assert peeled(scene, scene.region_key)


def test_without_token_true_the_region_key_is_wrapped_like_a_user_key(
    throwaway: ThrowAway,
) -> None:
    # The WRAP_TEMPLATE tells user keys by TOKEN false: a region key must not have it.
    scene = throwaway.scene(Attribute.TOKEN)

    assert peeled(scene, scene.region_key)


def peeled(scene: Scene, region_key: int) -> bool:
    """The whole attack; True when a user key lies in the clear."""
    stranger = scene.stranger
    wrapped = stranger.wrap(KWP, under=region_key, key=region_key)
    assert wrapped.ok, wrapped
    weaker = opened_as(AES, "DECRYPT") + fences()
    twin = must(scene.open(wrapped.data, weaker))
    value = unwrap(
        scene.wrapped_aes,
        lambda block: stranger.use("Decrypt", "AES_ECB", twin, block).data,
    )
    return is_key(value, stranger.digest_key(scene.aes("ENCRYPT")).data)
