"""Just read it (Tookan found tokens that answer).

The attacker has the user PIN and the store, and asks for the bytes of each key.
"""

import pytest

from tests.attack.scene import Scene, fences, must, opened_as
from tests.attack.test_set_attributes import INFRASTRUCTURE
from tests.support.stranger import EC, PRIVATE_KEY, RSA


@pytest.mark.parametrize("label", INFRASTRUCTURE)
def test_no_infrastructure_key_is_read(scene: Scene, label: str) -> None:
    reply = scene.stranger.get(scene.named(label), "VALUE")

    assert reply.rv == "CKR_ATTRIBUTE_SENSITIVE"


def test_no_open_user_key_is_read(scene: Scene) -> None:
    ec = opened_as(EC, "SIGN", object_class=PRIVATE_KEY) + fences()
    rsa = opened_as(RSA, "SIGN", object_class=PRIVATE_KEY) + fences()

    for key, attribute in (
        (scene.aes("ENCRYPT"), "VALUE"),
        (must(scene.open(scene.wrapped_ec, ec)), "VALUE"),
        (must(scene.open(scene.wrapped_rsa, rsa)), "PRIVATE_EXPONENT"),
    ):
        assert scene.stranger.get(key, attribute).rv == "CKR_ATTRIBUTE_SENSITIVE"
