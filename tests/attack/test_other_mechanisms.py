"""Another mechanism under the region key: KW, CBC, or CBC with padding.

The attacker has the user PIN and the store. CBC is not authenticated, so blocks can be
cut and joined; and unwrapping CBC with padding answers, byte for byte, what a wrapped
key is (Vaudenay, 2002; 48 000 calls for an AES-256 key where the token offers it).
"""

import pytest
from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from tests.attack.scene import Scene, ThrowAway, fences, opened_as
from tests.support.stranger import AES, MECHANISMS

OTHERS = ("AES_KEY_WRAP", "AES_CBC", "AES_CBC_PAD", "AES_ECB", "AES_CTR", "AES_GCM")
WRAPPING = (labels.region_key("north"), labels.pair_key("north", "south"))
UNWRAPPING = (labels.region_key("north"), labels.pair_key("south", "north"))


def iv(mechanism: str) -> bytes:
    return bytes(16) if mechanism.startswith("AES_CBC") else b""


@pytest.mark.parametrize("label", WRAPPING)
@pytest.mark.parametrize("mechanism", OTHERS)
def test_nothing_is_wrapped_by_it(scene: Scene, mechanism: str, label: str) -> None:
    target, under = scene.aes("ENCRYPT"), scene.named(label)

    reply = scene.stranger.wrap(mechanism, under=under, key=target, iv=iv(mechanism))

    assert reply.rv == "CKR_MECHANISM_INVALID"


@pytest.mark.parametrize("label", UNWRAPPING)
@pytest.mark.parametrize("mechanism", OTHERS)
def test_nothing_is_opened_by_it(scene: Scene, mechanism: str, label: str) -> None:
    reply = scene.stranger.unwrap(
        mechanism,
        under=scene.named(label),
        wrapped=scene.wrapped_aes[:32],
        template=opened_as(AES, "ENCRYPT") + fences(),
        iv=iv(mechanism),
    )

    assert reply.rv == "CKR_MECHANISM_INVALID"


@pytest.mark.parametrize("mechanism", ["AES_CBC", "AES_KEY_WRAP"])
def test_without_allowed_mechanisms_the_region_key_wraps_by_it(
    throwaway: ThrowAway, mechanism: str
) -> None:
    scene = throwaway.scene(Attribute.ALLOWED_MECHANISMS)
    target = scene.aes("ENCRYPT")

    reply = scene.stranger.wrap(
        mechanism, under=scene.region_key, key=target, iv=iv(mechanism)
    )

    assert reply.ok, reply


def test_without_allowed_mechanisms_the_region_key_opens_by_key_wrap(
    throwaway: ThrowAway,
) -> None:
    scene = throwaway.scene(Attribute.ALLOWED_MECHANISMS)
    wrapped = scene.stranger.wrap(
        "AES_KEY_WRAP", under=scene.region_key, key=scene.aes("ENCRYPT")
    )

    reply = scene.stranger.unwrap(
        "AES_KEY_WRAP",
        under=scene.region_key,
        wrapped=wrapped.data,
        template=opened_as(AES, "ENCRYPT") + fences(),
    )

    assert reply.ok, reply


@pytest.mark.parametrize("mechanism", ["AES_CBC", "AES_CBC_PAD"])
def test_the_padding_oracle_needs_what_softhsm_2_6_does_not_have(
    throwaway: ThrowAway, mechanism: str
) -> None:
    # Both are there for data, and open no keys: SoftHSM 2.7.0 brought that, and with it
    # the oracle. On such a token this test is red, and the attack itself belongs here.
    scene = throwaway.scene(Attribute.ALLOWED_MECHANISMS)
    assert MECHANISMS[mechanism] in scene.stranger.mechanisms()

    reply = scene.stranger.unwrap(
        mechanism,
        under=scene.region_key,
        wrapped=bytes(48),
        template=opened_as(AES, "ENCRYPT") + fences(),
        iv=bytes(16),
    )

    assert reply.rv == "CKR_MECHANISM_INVALID"
