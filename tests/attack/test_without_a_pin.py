"""No PIN at all, but a session, and the token's files.

The attacker has a process on the machine, and a copy of the token directory. (With the
directory *and* a PIN they have everything: SoftHSM is for development and testing.)
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pkcs11.constants import Attribute

from hsmvault.hsm import labels
from hsmvault.hsm.templates import REGION_KEY
from tests.attack.scene import Scene, ThrowAway, pairs
from tests.support.softhsm import MODULE, USER_PIN, Token, make_token
from tests.support.stranger import AES, SECRET_KEY, Stranger


def test_no_object_is_even_visible(partition: Token) -> None:
    with Stranger(MODULE, partition.environment, partition.label) as stranger:
        assert stranger.find() == ()


def test_no_handle_works(partition: Token, scene: Scene) -> None:
    handle = scene.region_key

    with Stranger(MODULE, partition.environment, partition.label) as stranger:
        refusals = {
            stranger.get(handle, "LABEL").rv,
            stranger.destroy(handle).rv,
            stranger.copy(handle, [("TOKEN", False)]).rv,
            stranger.use("Decrypt", "AES_ECB", handle, bytes(16)).rv,
        }

    assert refusals <= {
        "CKR_OBJECT_HANDLE_INVALID",
        "CKR_KEY_HANDLE_INVALID",
        "CKR_USER_NOT_LOGGED_IN",
    }


def test_no_private_object_is_made(partition: Token) -> None:
    with Stranger(MODULE, partition.environment, partition.label) as stranger:
        reply = stranger.create(
            [
                ("CLASS", SECRET_KEY),
                ("KEY_TYPE", AES),
                ("VALUE", bytes(32)),
                ("TOKEN", True),
                ("PRIVATE", True),
                ("LABEL", labels.region_key("north").encode()),
            ]
        )

    assert reply.rv == "CKR_USER_NOT_LOGGED_IN"


def test_the_files_hold_no_key_in_clear(partition: Token, scene: Scene) -> None:
    digests = {
        scene.stranger.digest_key(scene.named(label)).data
        for label in (
            labels.region_key("north"),
            labels.integrity_key("north"),
            labels.pair_key("north", "south"),
            labels.pair_key("south", "north"),
        )
    }

    assert digests.isdisjoint(_windows(partition.directory))


def test_the_files_hold_no_label_in_clear(partition: Token) -> None:
    everything = b"".join(_files(partition.directory))

    assert b"hsmvault:region-key" not in everything
    assert b"hsmvault:identity" not in everything


def test_without_private_the_region_key_lies_in_a_file(tmp_path: Path) -> None:
    token = make_token(tmp_path, "public")
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        key = ThrowAway(stranger).install(
            REGION_KEY, changed={Attribute.PRIVATE: False}
        )
        digest = stranger.digest_key(key).data

    assert digest in _windows(tmp_path)


def test_without_private_anybody_destroys_it_and_plants_another(
    tmp_path: Path,
) -> None:
    token = make_token(tmp_path, "public")
    with Stranger(MODULE, token.environment, token.label) as stranger:
        assert stranger.login(USER_PIN).ok
        ThrowAway(stranger).install(
            REGION_KEY,
            Attribute.DESTROYABLE,
            changed={Attribute.PRIVATE: False},
        )

    with Stranger(MODULE, token.environment, token.label) as stranger:
        (key,) = stranger.find(("CLASS", SECRET_KEY))
        label = stranger.get(key, "LABEL").data

        assert stranger.destroy(key).ok
        look_alike = [
            (a, v)
            for a, v in pairs(REGION_KEY)
            if a not in {"PRIVATE", "TRUSTED", "DESTROYABLE", "MODIFIABLE"}
        ]
        planted = stranger.create(
            [*look_alike, ("PRIVATE", False), ("VALUE", bytes(32)), ("LABEL", label)]
        )
        assert planted.ok, planted


def _files(directory: Path) -> Iterator[bytes]:
    for path in sorted(directory.rglob("*.object")):
        yield path.read_bytes()


def _windows(directory: Path) -> set[bytes]:
    """SHA-256 of everything of 32 bytes that stands anywhere in the token's files."""
    return {
        hashlib.sha256(raw[i : i + 32]).digest()
        for raw in _files(directory)
        for i in range(len(raw) - 31)
    }
