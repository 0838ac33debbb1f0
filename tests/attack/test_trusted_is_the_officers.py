"""Becoming trusted: whoever can set TRUSTED can admit a recipient for every key.

The attacker has the user PIN. They try every call that makes or changes an object.
"""

from tests.attack.scene import KWP, Pairs, Scene, fences, must, opened_as
from tests.support.softhsm import MODULE, USER_PIN, Token
from tests.support.stranger import AES, SECRET_KEY, Stranger

WRAPPING = [("TOKEN", False), ("WRAP", True), ("EXTRACTABLE", True)]


def test_not_by_generating(scene: Scene) -> None:
    reply = scene.stranger.generate(
        "AES_KEY_GEN", [("VALUE_LEN", 32), *WRAPPING, ("TRUSTED", True)]
    )

    assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_not_by_generating_a_pair(scene: Scene) -> None:
    public: Pairs = [
        ("TOKEN", False),
        ("MODULUS_BITS", 2048),
        ("PUBLIC_EXPONENT", b"\x01\x00\x01"),
        ("WRAP", True),
        ("TRUSTED", True),
    ]

    reply = scene.stranger.generate_pair(
        "RSA_PKCS_KEY_PAIR_GEN", public, [("TOKEN", False)]
    )

    assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_not_by_creating(scene: Scene) -> None:
    reply = scene.stranger.create(
        [
            ("CLASS", SECRET_KEY),
            ("KEY_TYPE", AES),
            ("VALUE", bytes(32)),
            *WRAPPING,
            ("TRUSTED", True),
        ]
    )

    assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_not_by_unwrapping(scene: Scene) -> None:
    for place in (0, len(fences())):
        template = fences()
        template.insert(place, ("TRUSTED", True))

        reply = scene.open(scene.wrapped_aes, opened_as(AES, "WRAP") + template)

        assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_not_by_copying(scene: Scene) -> None:
    mine = must(scene.stranger.generate("AES_KEY_GEN", [("VALUE_LEN", 32), *WRAPPING]))

    reply = scene.stranger.copy(mine, [("TRUSTED", True)])

    assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_not_by_setting(scene: Scene) -> None:
    mine = must(scene.stranger.generate("AES_KEY_GEN", [("VALUE_LEN", 32), *WRAPPING]))

    reply = scene.stranger.set(mine, ("TRUSTED", True))

    assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_not_with_the_user_pin_as_the_officers(partition: Token) -> None:
    with Stranger(MODULE, partition.environment, partition.label) as stranger:
        assert stranger.login(USER_PIN, officer=True).rv == "CKR_PIN_INCORRECT"


def test_what_an_untrusted_key_can_be_used_for_is_not_wrapping(scene: Scene) -> None:
    mine = must(scene.stranger.generate("AES_KEY_GEN", [("VALUE_LEN", 32), *WRAPPING]))

    reply = scene.stranger.wrap(KWP, under=mine, key=scene.region_key)

    assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"
