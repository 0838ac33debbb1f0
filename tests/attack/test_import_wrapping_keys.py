"""The wrapping key of an import, in the hands of an attacker with the user PIN.

They caught a blob on its way, and want the key in it. What the tables of the wrapping
key and of its carrier stop is shown first, as if the attacker could reach one; then
what they cannot stop, which is why no wrapping key is where others reach it.
"""

import secrets
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from pkcs11.constants import Attribute

from hsmvault.hsm.attributes import Template
from hsmvault.hsm.import_templates import CARRIER, CARRIER_FENCES, IMPORT_KEY
from hsmvault.hsm.structures import OAEP_SHA1
from hsmvault.hsm.templates import Purpose, user_key
from hsmvault.model.algorithms import KeySpec
from tests.attack.peel import unwrap as peeled
from tests.attack.scene import Pairs, Scene, must, opened_as, pairs, without
from tests.support.partitions import Loaded, Pools
from tests.support.softhsm import MODULE, USER_PIN
from tests.support.stranger import AES, GENERIC_SECRET, PRIVATE_KEY, Reply, Stranger

KWP = "AES_KEY_WRAP_PAD"
SECRET = bytes(range(32))
SPEC = KeySpec.of("oct", bits=256)
FENCED = pairs(CARRIER_FENCES)


class Caught:
    """A wrapping key that the attacker can reach, and a blob for it."""

    def __init__(self, stranger: Stranger, table: Template = IMPORT_KEY) -> None:
        public: Pairs = [
            ("TOKEN", False),
            ("PRIVATE", False),
            ("MODULUS_BITS", 2048),
            ("PUBLIC_EXPONENT", b"\x01\x00\x01"),
        ]
        reply = stranger.generate_pair("RSA_PKCS_KEY_PAIR_GEN", public, pairs(table))
        assert reply.ok, reply
        half, self.key = reply.handles
        self.stranger = stranger
        modulus = int.from_bytes(stranger.get(half, "MODULUS").data)
        carrier = secrets.token_bytes(32)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
        numbers = RSAPublicNumbers(65537, modulus)
        self.first = numbers.public_key().encrypt(carrier, oaep)
        self.second = keywrap.aes_key_wrap_with_padding(carrier, SECRET)

    def carrier(self, template: Iterable[tuple[str, object]]) -> Reply:
        """Open the carrier as the attacker likes it."""
        return self.stranger.unwrap(
            "RSA_PKCS_OAEP",
            under=self.key,
            wrapped=self.first,
            template=template,  # type: ignore[arg-type]
            iv=OAEP_SHA1,
        )


@pytest.fixture(scope="module")
def caught(scene: Scene) -> Caught:
    return Caught(scene.stranger)


def test_the_tables_open_a_blob_as_the_product_does(caught: Caught) -> None:
    carrier = must(caught.carrier(pairs(CARRIER)))

    reply = caught.stranger.unwrap(
        KWP,
        under=carrier,
        wrapped=caught.second,
        template=pairs(user_key(SPEC, Purpose.CIPHER)),
    )

    assert reply.ok, reply


@pytest.mark.parametrize("mechanism", ["RSA_PKCS_OAEP", "RSA_PKCS", "RSA_X_509"])
def test_it_decrypts_nothing_and_signs_nothing(caught: Caught, mechanism: str) -> None:
    for how in ("Decrypt", "Sign"):
        reply = caught.stranger.use(how, mechanism, caught.key, caught.first)

        assert reply.rv in {"CKR_KEY_FUNCTION_NOT_PERMITTED", "CKR_MECHANISM_INVALID"}


@pytest.mark.parametrize("mechanism", ["RSA_PKCS", "RSA_X_509", KWP])
def test_it_opens_by_no_other_mechanism(caught: Caught, mechanism: str) -> None:
    reply = caught.stranger.unwrap(
        mechanism, under=caught.key, wrapped=caught.first, template=pairs(CARRIER)
    )

    assert not reply.ok


@pytest.mark.parametrize("name", [name for name, _ in FENCED])
def test_no_carrier_is_opened_with_a_fence_changed(caught: Caught, name: str) -> None:
    other = {"CLASS": PRIVATE_KEY, "KEY_TYPE": GENERIC_SECRET}
    changed = [
        (a, other.get(a, frozenset() if isinstance(v, frozenset) else not v))
        if a == name
        else (a, v)
        for a, v in FENCED
    ]

    assert not caught.carrier(changed).ok


@pytest.mark.parametrize("use", ["DECRYPT", "ENCRYPT", "WRAP", "SIGN", "DERIVE"])
def test_a_carrier_does_nothing_but_unwrap(caught: Caught, use: str) -> None:
    assert not caught.carrier([*opened_as(AES, use), *FENCED]).ok
    assert not caught.carrier([*FENCED, (use, True)]).ok


def test_it_opens_no_user_key_out_of_the_store(scene: Scene, caught: Caught) -> None:
    for wrapped in (scene.wrapped_aes, scene.wrapped_rsa, scene.wrapped_rsa[:256]):
        for mechanism in ("RSA_PKCS_OAEP", KWP):
            reply = scene.stranger.unwrap(
                mechanism,
                under=caught.key,
                wrapped=wrapped,
                template=pairs(CARRIER),
                iv=OAEP_SHA1 if mechanism == "RSA_PKCS_OAEP" else b"",
            )

            assert not reply.ok


def test_a_carrier_opens_no_user_key_and_wraps_none(
    scene: Scene, caught: Caught
) -> None:
    carrier = must(caught.carrier(pairs(CARRIER)))

    opened = scene.stranger.unwrap(
        KWP,
        under=carrier,
        wrapped=scene.wrapped_aes,
        template=pairs(user_key(SPEC, Purpose.CIPHER)),
    )
    wrapped = scene.stranger.wrap(KWP, under=carrier, key=scene.aes("ENCRYPT"))

    assert not opened.ok
    assert not wrapped.ok


def test_what_a_wrapping_key_is_cannot_be_changed_copied_or_taken_out(
    scene: Scene, caught: Caught
) -> None:
    stranger, key = scene.stranger, caught.key

    assert not stranger.set(key, ("DECRYPT", True)).ok
    assert not stranger.copy(key, [("DECRYPT", True)]).ok
    assert not stranger.copy(key, [("TOKEN", True)]).ok
    assert not stranger.wrap(KWP, under=scene.region_key, key=key).ok
    assert not stranger.get(key, "PRIVATE_EXPONENT").data


def test_without_the_fences_the_carrier_decrypts_and_the_key_is_out(
    scene: Scene,
) -> None:
    weak = Caught(scene.stranger, without(IMPORT_KEY, Attribute.UNWRAP_TEMPLATE))
    carrier = must(weak.carrier([*opened_as(AES, "DECRYPT"), ("TOKEN", False)]))

    def block(data: bytes) -> bytes:
        return scene.stranger.use("Decrypt", "AES_ECB", carrier, data).data

    assert peeled(weak.second, block) == SECRET


def test_without_decrypt_false_the_carrier_is_out(scene: Scene) -> None:
    table = {
        **without(IMPORT_KEY, Attribute.ALLOWED_MECHANISMS, Attribute.MODIFIABLE),
        Attribute.DECRYPT: True,
    }
    weak = Caught(scene.stranger, table)

    reply = scene.stranger.use("Decrypt", "RSA_X_509", weak.key, weak.first)

    # The OAEP encoding, which anybody can take off.
    assert reply.ok
    assert len(reply.data) in {255, 256}


def test_whoever_reached_a_wrapping_key_would_have_the_key_of_a_caught_blob(
    caught: Caught,
) -> None:
    # No template in a template: the carrier's own UNWRAP_TEMPLATE cannot be demanded.
    # A token that keeps one makes this test red, and the line belongs in the table.
    carrier = must(caught.carrier(FENCED))

    opened = must(
        caught.stranger.unwrap(
            KWP,
            under=carrier,
            wrapped=caught.second,
            template=[
                *opened_as(AES),
                ("TOKEN", False),
                ("SENSITIVE", False),
                ("EXTRACTABLE", True),
            ],
        )
    )

    assert caught.stranger.get(opened, "VALUE").data == SECRET


def test_so_nobody_else_reaches_one(loaded: Loaded, real_pools: Pools) -> None:
    """Neither with the PIN in another process, nor in the token's own files."""
    token = loaded.tokens["north", "p0"]
    stored = sorted(p for p in Path(token.directory).rglob("*") if p.is_file())
    import_id = secrets.token_hex(16)
    real_pools.north.begin_import(import_id, 2048, expire_ms=1 << 50)
    try:
        with Stranger(MODULE, token.environment, token.label) as stranger:
            assert stranger.login(USER_PIN).ok
            found = stranger.find(("CLASS", PRIVATE_KEY))
            kinds = [stranger.get(key, "KEY_TYPE").data[0] for key in found]

        assert found, "the identity key is there"
        assert kinds.count(0) == 0, "and no RSA key"
        assert stored == sorted(
            p for p in Path(token.directory).rglob("*") if p.is_file()
        )
    finally:
        real_pools.north.end_imports([import_id], now_ms=0)
