"""Import of a known wrapping key (Clulow, 2003).

The attacker has the user PIN and the store. They bring a key whose bytes they know, as
an object, by unwrapping, or by deriving, and wrap a user key under it.
"""

from tests.attack.scene import KWP, Pairs, Scene, fences, must, opened_as
from tests.support.stranger import AES, SECRET_KEY, Stranger

KNOWN = bytes(range(32))


def known_key(stranger: Stranger, *more: tuple[str, bool]) -> Pairs:
    return [
        ("CLASS", SECRET_KEY),
        ("KEY_TYPE", AES),
        ("TOKEN", False),
        ("PRIVATE", True),
        ("VALUE", KNOWN),
        ("WRAP", True),
        ("UNWRAP", True),
        ("EXTRACTABLE", True),
        *more,
    ]


def test_a_known_key_wraps_no_user_key(scene: Scene) -> None:
    known = must(scene.stranger.create(known_key(scene.stranger)))

    for mechanism in (KWP, "AES_KEY_WRAP", "AES_CBC"):
        reply = scene.stranger.wrap(
            mechanism, under=known, key=scene.aes("ENCRYPT"), iv=_iv(mechanism)
        )

        assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


def test_a_known_key_wraps_no_infrastructure_key(scene: Scene) -> None:
    known = must(scene.stranger.create(known_key(scene.stranger)))

    reply = scene.stranger.wrap(KWP, under=known, key=scene.region_key)

    assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


def test_a_known_key_is_not_trusted_when_created(scene: Scene) -> None:
    reply = scene.stranger.create(known_key(scene.stranger, ("TRUSTED", True)))

    assert reply.rv == "CKR_ATTRIBUTE_READ_ONLY"


def test_a_known_key_comes_in_by_unwrapping_and_still_wraps_nothing(
    scene: Scene,
) -> None:
    # The region key wraps what fits its template: also a key that the attacker knows.
    planted = must(
        scene.stranger.create(
            [p for p in known_key(scene.stranger) if p[0] != "UNWRAP"]
        )
    )
    blob = scene.stranger.wrap(KWP, under=scene.region_key, key=planted)
    assert blob.ok
    back = must(scene.open(blob.data, opened_as(AES, "WRAP") + fences()))

    reply = scene.stranger.wrap(KWP, under=back, key=scene.aes("ENCRYPT"))

    assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


def _iv(mechanism: str) -> bytes:
    return bytes(16) if mechanism == "AES_CBC" else b""
