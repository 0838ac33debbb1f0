"""A copy with weaker attributes, or with another role.

The attacker has the user PIN and the store, and copies what the vault opened.
"""

import pytest

from hsmvault.hsm import labels
from hsmvault.model.errors import IntegrityFailure
from tests.attack.scene import KWP, Scene, must
from tests.attack.test_set_attributes import CHANGES, INFRASTRUCTURE
from tests.support.softhsm import MODULE, USER_PIN, Officers, RegionTokens
from tests.support.stranger import Stranger

REFUSALS = {
    "CKR_ACTION_PROHIBITED",
    "CKR_ATTRIBUTE_READ_ONLY",
    "CKR_ATTRIBUTE_TYPE_INVALID",
    "CKR_TEMPLATE_INCONSISTENT",
}


def test_a_user_key_is_not_copied(scene: Scene) -> None:
    key = scene.aes("ENCRYPT")

    assert scene.stranger.copy(key, []).rv == "CKR_ACTION_PROHIBITED"


def test_a_user_key_is_not_copied_with_changes(scene: Scene) -> None:
    key = scene.aes("ENCRYPT")

    for change in CHANGES:
        assert scene.stranger.copy(key, [change]).rv in REFUSALS, change


@pytest.mark.parametrize("label", INFRASTRUCTURE)
def test_an_infrastructure_key_is_not_copied_with_changes(
    scene: Scene, label: str
) -> None:
    key = scene.named(label)

    for change in CHANGES:
        assert scene.stranger.copy(key, [change]).rv in REFUSALS, change


def test_a_plain_copy_of_the_region_key_may_do_no_more_than_it(
    north: RegionTokens,
) -> None:
    # A ceremony's own copy cannot be made uncopyable, so the token copies it as it is.
    # Nothing is gained; but two keys then pass for one, and the vault stops loudly.
    token = north.tokens["p0"]
    label = labels.region_key("north")
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        (key,) = stranger.find(("LABEL", label.encode()))

        copied = must(stranger.copy(key, []))

        for name in ("DECRYPT", "MODIFIABLE", "DERIVE", "SIGN", "ENCRYPT"):
            assert stranger.get(copied, name).data == b"\x00"
        for name in ("TRUSTED", "SENSITIVE", "PRIVATE", "WRAP_WITH_TRUSTED"):
            assert stranger.get(copied, name).data == b"\x01"
        reply = stranger.wrap(KWP, under=copied, key=key)
        assert reply.rv == "CKR_KEY_NOT_WRAPPABLE"
    with Officers(north) as officers:
        task = {"task": "birth_region", "region": "north"}
        with pytest.raises(IntegrityFailure, match="2 objects"):
            officers["north", "p0"].ask(task)
