"""Speaking as a partition: taking its identity key out.

The attacker has the user PIN. With the identity key outside, they could sign log heads
and ceremonies from anywhere, for ever.
"""

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import load_der_private_key

from hsmvault.hsm import labels
from tests.attack.peel import unwrap
from tests.attack.scene import KWP, Scene, ThrowAway
from tests.attack.test_wrap_then_decrypt import own_key
from tests.support.stranger import Stranger


def test_it_is_wrapped_by_nothing(scene: Scene) -> None:
    identity = scene.named(labels.identity_key("north", "p0"))

    for under in (own_key(scene.stranger), scene.region_key):
        reply = scene.stranger.wrap(KWP, under=under, key=identity)

        assert reply.rv == "CKR_KEY_UNEXTRACTABLE"


def test_it_signs_and_does_nothing_else(scene: Scene) -> None:
    identity = scene.named(labels.identity_key("north", "p0"))

    assert scene.stranger.use("Sign", "ECDSA", identity, bytes(32)).ok
    assert scene.stranger.use("Decrypt", "ECDSA", identity, bytes(32)).rv in {
        "CKR_KEY_FUNCTION_NOT_PERMITTED",
        "CKR_MECHANISM_INVALID",
    }


def test_if_it_were_extractable_it_would_be_out(throwaway: ThrowAway) -> None:
    identity = throwaway.identity(EXTRACTABLE=True)

    stolen = _steal(throwaway.stranger, identity)

    assert isinstance(stolen, ec.EllipticCurvePrivateKey)
    challenge = bytes(range(32))
    reply = throwaway.stranger.use("Sign", "ECDSA", identity, challenge)
    r, s = int.from_bytes(reply.data[:32]), int.from_bytes(reply.data[32:])
    stolen.public_key().verify(
        encode_dss_signature(r, s), challenge, ec.ECDSA(Prehashed(hashes.SHA256()))
    )


def _steal(stranger: Stranger, key: int) -> object:
    mine = own_key(stranger)
    reply = stranger.wrap(KWP, under=mine, key=key)
    assert reply.ok, reply
    value = unwrap(
        reply.data, lambda block: stranger.use("Decrypt", "AES_ECB", mine, block).data
    )
    # SoftHSM pads PKCS#8 to whole blocks before it wraps.
    return load_der_private_key(value[: 2 + value[1]], password=None)
