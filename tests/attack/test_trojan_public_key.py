"""The Trojan public key (Clulow, 2003).

The attacker has the user PIN. They make an RSA key pair outside, bring its public half
in as a wrapping key, and open with the private half whatever it wrapped.
"""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from tests.attack.peel import is_key
from tests.attack.scene import Pairs, Scene, ThrowAway, fences, must, opened_as
from tests.support.stranger import AES, PUBLIC_KEY, RSA

OAEP = b"OAEP"

SOFTWARE = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def trojan(*more: tuple[str, bool]) -> Pairs:
    numbers = SOFTWARE.public_key().public_numbers()
    return [
        ("CLASS", PUBLIC_KEY),
        ("KEY_TYPE", RSA),
        ("TOKEN", False),
        ("PRIVATE", False),
        ("MODULUS", numbers.n.to_bytes(256)),
        ("PUBLIC_EXPONENT", numbers.e.to_bytes(3)),
        ("WRAP", True),
        *more,
    ]


def test_it_wraps_no_user_key(scene: Scene) -> None:
    public = must(scene.stranger.create(trojan()))

    for mechanism in ("RSA_PKCS_OAEP", "RSA_PKCS"):
        reply = scene.stranger.wrap(
            mechanism, under=public, key=scene.aes("ENCRYPT"), iv=_oaep(mechanism)
        )

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
    public = must(scene.stranger.create(trojan()))

    reply = scene.stranger.wrap(
        "RSA_PKCS_OAEP", under=public, key=scene.named(label), iv=OAEP
    )

    assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


def test_it_wraps_no_identity_key(scene: Scene) -> None:
    public = must(scene.stranger.create(trojan()))
    identity = scene.named(labels.identity_key("north", "p0"))

    reply = scene.stranger.wrap("RSA_PKCS_OAEP", under=public, key=identity, iv=OAEP)

    assert reply.rv == "CKR_KEY_UNEXTRACTABLE"


def test_it_is_not_trusted_when_created(scene: Scene) -> None:
    reply = scene.stranger.create(trojan(("TRUSTED", True)))

    assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_without_wrap_with_trusted_it_carries_the_key_out(
    throwaway: ThrowAway,
) -> None:
    scene = throwaway.scene_without_fence(Attribute.WRAP_WITH_TRUSTED)
    weak = opened_as(AES, "ENCRYPT") + fences("WRAP_WITH_TRUSTED")
    target = must(scene.open(scene.wrapped_aes, weak))
    public = must(scene.stranger.create(trojan()))

    reply = scene.stranger.wrap("RSA_PKCS_OAEP", under=public, key=target, iv=OAEP)

    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
    value = SOFTWARE.decrypt(reply.data, oaep)
    assert is_key(value, scene.stranger.digest_key(target).data)


def _oaep(mechanism: str) -> bytes:
    return OAEP if mechanism == "RSA_PKCS_OAEP" else b""
