"""Re-opening a user key without its fences (Tookan, 2010; double unwrapping).

The attacker has the user PIN and the store. They unwrap a stored key with each fence
changed, given twice, moved, or left out; whatever opens must still have every fence.
"""

import itertools

import pytest
from pkcs11.constants import Attribute

from tests.attack.peel import is_key
from tests.attack.scene import Pairs, Scene, ThrowAway, fences, must, opened_as
from tests.attack.test_wrap_then_decrypt import steal
from tests.support.stranger import AES, EC, PRIVATE_KEY, RSA

FENCES = {
    "TOKEN": False,
    "PRIVATE": True,
    "SENSITIVE": True,
    "EXTRACTABLE": True,
    "WRAP_WITH_TRUSTED": True,
    "DERIVE": False,
    "COPYABLE": False,
    "MODIFIABLE": False,
}
# Written out: taken from our own table, a missing line would not be missed.
NAMES = tuple(FENCES)
REFUSALS = {
    "CKR_TEMPLATE_INCONSISTENT",
    "CKR_ATTRIBUTE_READ_ONLY",
    "CKR_ATTRIBUTE_VALUE_INVALID",
}


def kinds(scene: Scene) -> tuple[tuple[bytes, Pairs], ...]:
    return (
        (scene.wrapped_aes, opened_as(AES, "ENCRYPT")),
        (scene.wrapped_ec, opened_as(EC, "SIGN", object_class=PRIVATE_KEY)),
        (scene.wrapped_rsa, opened_as(RSA, "SIGN", object_class=PRIVATE_KEY)),
    )


def flipped(name: str) -> tuple[str, bool]:
    return name, not FENCES[name]


@pytest.mark.parametrize("name", NAMES)
def test_not_with_a_fence_changed(scene: Scene, name: str) -> None:
    changed = [flipped(name) if a == name else (a, v) for a, v in fences()]

    for wrapped, head in kinds(scene):
        assert scene.open(wrapped, head + changed).rv in REFUSALS


@pytest.mark.parametrize("name", NAMES)
def test_not_with_a_fence_left_out(scene: Scene, name: str) -> None:
    for wrapped, head in kinds(scene):
        reply = scene.open(wrapped, head + fences(name))

        # SoftHSM fills in TOKEN and PRIVATE before it compares, as we want them.
        assert reply.rv in REFUSALS or _fenced(scene, reply.handle)


def test_not_with_all_fences_left_out(scene: Scene) -> None:
    for wrapped, head in kinds(scene):
        assert scene.open(wrapped, head).rv in REFUSALS


@pytest.mark.parametrize("name", NAMES)
def test_not_with_a_fence_given_twice(scene: Scene, name: str) -> None:
    for wrapped, head in kinds(scene):
        for place in range(len(NAMES) + 1):
            twice = fences()
            twice.insert(place, flipped(name))
            reply = scene.open(wrapped, head + twice)

            assert reply.rv in REFUSALS or _fenced(scene, reply.handle), place


def test_in_no_order_does_a_fence_fall(scene: Scene) -> None:
    head = opened_as(AES, "ENCRYPT")
    opened = 0

    for order in itertools.islice(itertools.permutations(fences()), 0, None, 331):
        reply = scene.open(scene.wrapped_aes, head + list(order))
        opened += reply.ok
        assert reply.rv in REFUSALS or _fenced(scene, reply.handle), order

    assert opened


def _fenced(scene: Scene, key: int) -> bool:
    shown = {name: scene.stranger.get(key, name).data == b"\x01" for name in NAMES}
    return shown == FENCES


def _open_without(throwaway: ThrowAway, name: str) -> tuple[Scene, int]:
    """Re-open where the officer left one fence out, with that fence flipped."""
    scene = throwaway.scene_without_fence(Attribute[name])
    weaker = [flipped(a) if a == name else (a, v) for a, v in fences()]
    return scene, must(
        scene.open(scene.wrapped_aes, opened_as(AES, "ENCRYPT") + weaker)
    )


def test_without_sensitive_the_key_is_read(throwaway: ThrowAway) -> None:
    scene, key = _open_without(throwaway, "SENSITIVE")

    value = scene.stranger.get(key, "VALUE").data

    assert is_key(value, scene.stranger.digest_key(key).data)


def test_without_wrap_with_trusted_the_key_is_wrapped_out(
    throwaway: ThrowAway,
) -> None:
    scene, key = _open_without(throwaway, "WRAP_WITH_TRUSTED")

    assert steal(scene.stranger, key)


def test_without_token_false_the_key_is_parked_in_the_token(
    throwaway: ThrowAway,
) -> None:
    scene, key = _open_without(throwaway, "TOKEN")

    assert scene.stranger.get(key, "TOKEN").data == b"\x01"


def test_without_private_the_key_is_used_without_a_pin(throwaway: ThrowAway) -> None:
    scene, key = _open_without(throwaway, "PRIVATE")

    assert scene.stranger.logout().ok
    reply = scene.stranger.use("Encrypt", "AES_ECB", key, bytes(16))

    assert reply.ok


def test_without_extractable_the_key_can_never_travel_again(
    throwaway: ThrowAway,
) -> None:
    scene, key = _open_without(throwaway, "EXTRACTABLE")

    reply = scene.stranger.wrap("AES_KEY_WRAP_PAD", under=scene.region_key, key=key)

    assert reply.rv == "CKR_KEY_UNEXTRACTABLE"


def test_without_derive_false_the_key_has_children(throwaway: ThrowAway) -> None:
    scene, key = _open_without(throwaway, "DERIVE")

    reply = scene.stranger.derive(
        "AES_ECB_ENCRYPT_DATA",
        key,
        [("CLASS", 4), ("KEY_TYPE", AES), ("TOKEN", False), ("VALUE_LEN", 16)],
        bytes(16),
    )

    assert reply.ok


def test_without_copyable_false_the_key_is_copied_into_the_token(
    throwaway: ThrowAway,
) -> None:
    # MODIFIABLE false refuses altered copies by itself: both fences, one behind the
    # other. What COPYABLE alone refuses is the copy as it is.
    scene, key = _open_without(throwaway, "COPYABLE")

    assert scene.stranger.copy(key, []).ok


def test_without_modifiable_false_the_key_changes(throwaway: ThrowAway) -> None:
    scene, key = _open_without(throwaway, "MODIFIABLE")

    assert scene.stranger.set(key, ("DECRYPT", True)).ok
