"""Wrap-then-decrypt, the oldest attack on PKCS#11 (Clulow, 2003).

The attacker has the user PIN and the store. They wrap a user key under a key that may
also decrypt, present the result as ciphertext, and receive the key in the clear.
"""

from pkcs11.constants import Attribute

from hsmvault.hsm.templates import REGION_KEY
from tests.attack.peel import is_key, unwrap
from tests.attack.scene import (
    KWP,
    Scene,
    ThrowAway,
    fences,
    look_around,
    must,
    opened_as,
)
from tests.support.stranger import AES, Stranger


def own_key(stranger: Stranger) -> int:
    return must(
        stranger.generate(
            "AES_KEY_GEN",
            [("VALUE_LEN", 32), ("TOKEN", False), ("WRAP", True), ("DECRYPT", True)],
        )
    )


def test_an_own_key_wraps_no_user_key(scene: Scene) -> None:
    mine, target = own_key(scene.stranger), scene.aes("ENCRYPT")

    reply = scene.stranger.wrap(KWP, under=mine, key=target)

    assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"


def test_the_region_key_decrypts_nothing_that_it_wrapped(scene: Scene) -> None:
    for mechanism in ("AES_ECB", "AES_CBC", "AES_GCM", KWP):
        reply = scene.stranger.use(
            "Decrypt", mechanism, scene.region_key, scene.wrapped_aes[:32]
        )

        assert reply.rv in {"CKR_KEY_FUNCTION_NOT_PERMITTED", "CKR_MECHANISM_INVALID"}


def test_without_wrap_with_trusted_the_key_is_out(throwaway: ThrowAway) -> None:
    scene = throwaway.scene_without_fence(Attribute.WRAP_WITH_TRUSTED)
    weak = opened_as(AES, "ENCRYPT") + fences("WRAP_WITH_TRUSTED")
    target = must(scene.open(scene.wrapped_aes, weak))

    assert steal(scene.stranger, target)


def test_without_trusted_nothing_could_be_fenced(throwaway: ThrowAway) -> None:
    # A region key that is not TRUSTED wraps no key with WRAP_WITH_TRUSTED …
    key = throwaway.install(REGION_KEY, Attribute.TRUSTED)
    stranger = throwaway.stranger
    fenced = must(stranger.generate("AES_KEY_GEN", [("VALUE_LEN", 32), *fences()]))
    assert stranger.wrap(KWP, under=key, key=fenced).rv == "CKR_KEY_NOT_WRAPPABLE"
    # … so user keys would go without it, and then anybody wraps them.
    scene = look_around(stranger, key, Attribute.WRAP_WITH_TRUSTED)
    assert scene.wrapped_aes
    bare = [p for p in fences() if p[0] != "WRAP_WITH_TRUSTED"]
    target = must(stranger.generate("AES_KEY_GEN", [("VALUE_LEN", 32), *bare]))

    assert steal(stranger, target)


def steal(stranger: Stranger, target: int) -> bool:
    """The whole attack; True when the key lies in the clear."""
    mine = own_key(stranger)
    reply = stranger.wrap(KWP, under=mine, key=target)
    if not reply.ok:
        return False
    value = unwrap(
        reply.data, lambda block: stranger.use("Decrypt", "AES_ECB", mine, block).data
    )
    return is_key(value, stranger.digest_key(target).data)
