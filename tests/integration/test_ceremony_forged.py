"""Both ends of a ceremony are authenticated: nothing forged, changed or old goes in.

OAEP authenticates nobody. The attacker here sits between two officers, or has replaced
one of them; they have no identity key of the other end.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmvault.hsm import labels
from hsmvault.hsm.transcript import Answer, Context, Offer
from hsmvault.model.errors import IntegrityFailure, InvalidRequest, NotFound
from tests.support.softhsm import Officers, RegionTokens, clone, context

pytestmark = pytest.mark.softhsm

NORTH, SIBLING, SOUTH = ("north", "p0"), ("north", "p1"), ("south", "p0")
OUT = labels.pair_key("north", "south")
REGION = labels.region_key("north")
INTEGRITY = labels.integrity_key("north")
ATTACKER = ec.generate_private_key(ec.SECP256R1())
ATTACKER_IDENTITY = ATTACKER.public_key().public_bytes(
    Encoding.DER, PublicFormat.SubjectPublicKeyInfo
)

Message = dict[str, Any]


@pytest.fixture(scope="module")
def officers(
    born_regions: tuple[RegionTokens, RegionTokens],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Officers]:
    """The officers of both regions. A refused ceremony changes no token."""
    directory = tmp_path_factory.mktemp("forged")
    regions = [clone(r, directory / r.region) for r in born_regions]
    with Officers(*regions) as started:
        yield started


def offered(officers: Officers) -> Message:
    """South's true offer: give me the inbound half of the pair key."""
    task = {"task": "offer", "context": context(NORTH, SOUTH, "pair-in", OUT)}
    return dict(officers[SOUTH].ask(task))


def answered(officers: Officers, offer: Message, *, peer: str = "") -> Message:
    identity = peer or officers.identity(SOUTH)
    task = {"task": "answer", "offer": offer, "peer_identity": identity}
    return dict(officers[NORTH].ask(task))


def install(officers: Officers, answer: Message, *, peer: str = "") -> bool:
    identity = peer or officers.identity(NORTH)
    task = {"task": "install", "answer": answer, "peer_identity": identity}
    return bool(officers[SOUTH].ask(task)["installed"])


def attacker_signs(statement: bytes) -> bytes:
    der = ATTACKER.sign(statement, ec.ECDSA(hashes.SHA256()))
    return b"".join(n.to_bytes(32) for n in utils.decode_dss_signature(der))


def software_key(bits: int = 3072, exponent: int = 65537) -> bytes:
    key = rsa.generate_private_key(public_exponent=exponent, key_size=bits)
    return key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )


def test_an_offer_for_a_software_key_is_refused(officers: Officers) -> None:
    offer = offered(officers) | {"public_key": software_key().hex()}

    with pytest.raises(IntegrityFailure, match="not signed by the identity key"):
        answered(officers, offer)


def test_an_offer_signed_by_an_unknown_identity_is_refused(officers: Officers) -> None:
    true = Offer.read(offered(officers))
    forged = Offer(true.context, software_key())
    signed = Offer(
        forged.context, forged.public_key, attacker_signs(forged.statement())
    )

    with pytest.raises(IntegrityFailure, match="south/p0"):
        answered(officers, signed.wire())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vault", "f" * 32),
        ("epoch", 7),
        ("nonce", "00" * 16),
        ("from_partition", "p1"),
        ("to_partition", "p1"),
    ],
)
def test_an_offer_whose_context_was_changed_is_refused(
    officers: Officers, field: str, value: object
) -> None:
    offer = offered(officers)
    offer["context"] = dict(offer["context"]) | {field: value}

    with pytest.raises(IntegrityFailure, match="not signed"):
        answered(officers, offer)


def test_an_offer_for_another_purpose_than_agreed_is_refused(
    officers: Officers,
) -> None:
    agreed = context(NORTH, SOUTH, "pair-in", OUT) | {"vault": "e" * 32}
    task = {
        "task": "answer",
        "offer": offered(officers),
        "peer_identity": officers.identity(SOUTH),
        "context": agreed,
    }

    with pytest.raises(IntegrityFailure, match="agreed"):
        officers[NORTH].ask(task)


def test_a_weak_transport_key_is_refused_whoever_signed_it(
    officers: Officers,
) -> None:
    # The destination's own officer is the attacker here: its signature is right.
    for public_key in (
        software_key(bits=2048),
        software_key(exponent=3),
        ATTACKER_IDENTITY,
        b"not a key",
    ):
        bare = Offer(Context.read(context(NORTH, SOUTH, "pair-in", OUT)), public_key)
        offer = Offer(bare.context, public_key, attacker_signs(bare.statement()))

        with pytest.raises(InvalidRequest, match="public key"):
            answered(officers, offer.wire(), peer=ATTACKER_IDENTITY.hex())


def test_a_blob_that_anyone_made_for_the_public_key_is_refused(
    officers: Officers,
) -> None:
    offer = Offer.read(offered(officers))
    answer = planted(offer)

    with pytest.raises(IntegrityFailure, match="north/p0"):
        install(officers, answer.wire())


def planted(offer: Offer) -> Answer:
    """A key that the attacker knows, wrapped for the offer and signed by themself."""
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    key = load_der_public_key(offer.public_key)
    assert isinstance(key, rsa.RSAPublicKey)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
    known = bytes(range(32))
    wrapped = key.encrypt(known, oaep)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(known)
    unsigned = Answer(offer.context, wrapped, digest.finalize())
    statement = unsigned.statement(offer.public_key)
    return Answer(unsigned.context, wrapped, unsigned.digest, attacker_signs(statement))


@pytest.mark.parametrize("field", ["wrapped", "digest", "signature"])
def test_an_answer_with_one_bit_changed_is_refused(
    officers: Officers, field: str
) -> None:
    answer = answered(officers, offered(officers))
    raw = bytearray.fromhex(answer[field])
    raw[-1] ^= 1
    answer[field] = raw.hex()

    with pytest.raises(IntegrityFailure, match="not signed"):
        install(officers, answer)


def test_an_answer_to_one_offer_is_none_to_another(officers: Officers) -> None:
    first, second = offered(officers), offered(officers)
    answer = answered(officers, first)
    answer["context"] = second["context"]

    with pytest.raises(IntegrityFailure, match="not signed"):
        install(officers, answer)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("from_partition", "p1"),
        ("to_partition", "p1"),
        ("vault", "f" * 32),
        ("epoch", 7),
        ("nonce", "00" * 16),
    ],
)
def test_an_answer_whose_context_was_changed_is_refused(
    officers: Officers, field: str, value: object
) -> None:
    answer = answered(officers, offered(officers))
    answer["context"] = dict(answer["context"]) | {field: value}

    with pytest.raises(IntegrityFailure, match="no offer"):
        install(officers, answer)


def test_an_answer_cannot_turn_an_opening_key_into_a_wrapping_key(
    officers: Officers,
) -> None:
    # p1 of north asks for the wrapping half; the answer is made to say "opening".
    task = {"task": "offer", "context": context(NORTH, SIBLING, "pair-out", OUT)}
    offer = dict(officers[SIBLING].ask(task))
    answer = answered(officers, offer, peer=officers.identity(SIBLING))
    answer["context"] = dict(answer["context"]) | {"purpose": "pair-in"}

    with pytest.raises((IntegrityFailure, InvalidRequest)):
        officers[SIBLING].ask(
            {
                "task": "install",
                "answer": answer,
                "peer_identity": officers.identity(NORTH),
            }
        )


def test_a_replayed_answer_is_refused(officers: Officers) -> None:
    answer = answered(officers, offered(officers))
    assert install(officers, answer)

    with pytest.raises(IntegrityFailure, match="no offer"):
        install(officers, answer)


def test_an_answer_is_refused_by_a_later_session_of_the_officer(
    born_regions: tuple[RegionTokens, RegionTokens],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("later")
    regions = [clone(r, directory / r.region) for r in born_regions]
    with Officers(*regions) as first:
        answer = answered(first, offered(first))

    with Officers(*regions) as later, pytest.raises(IntegrityFailure, match="no offer"):
        install(later, answer)


def test_an_officer_speaks_for_its_own_partition_only(officers: Officers) -> None:
    # South's officer is asked to answer as north, and north's to offer as south.
    offer = offered(officers)
    with pytest.raises(NotFound, match="identity:north"):
        officers[SOUTH].ask(
            {
                "task": "answer",
                "offer": offer,
                "peer_identity": officers.identity(SOUTH),
            }
        )

    with pytest.raises(NotFound, match="identity:south"):
        officers[NORTH].ask(
            {"task": "offer", "context": context(NORTH, SOUTH, "pair-in", OUT)}
        )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.pop("context"),
        lambda m: m.pop("signature"),
        lambda m: m.update(wrapped="zz"),
        lambda m: m.update(wrapped=7),
        lambda m: m.update(context="north"),
        lambda m: m.update(context=dict(m["context"]) | {"more": 1}),
        lambda m: m.update(context=dict(m["context"]) | {"purpose": "everything"}),
        lambda m: m.update(context=dict(m["context"]) | {"label": "hsmvault:head"}),
    ],
)
def test_a_malformed_answer_is_refused_as_such(
    officers: Officers, spoil: Callable[[Message], object]
) -> None:
    answer = answered(officers, offered(officers))
    spoil(answer)

    with pytest.raises(InvalidRequest):
        install(officers, answer)


@pytest.mark.parametrize(
    ("source", "destination", "purpose", "label"),
    [
        # A region's own keys never leave it.
        ("north", "south", "region-key", REGION),
        ("north", "south", "region-key", labels.region_key("south")),
        ("north", "south", "integrity", INTEGRITY),
        # The wrapping half never leaves the sender.
        ("north", "south", "pair-out", OUT),
        ("south", "south", "pair-out", OUT),
        # The opening half goes to the receiver alone.
        ("north", "south", "pair-in", labels.pair_key("north", "west")),
        ("north", "north", "pair-in", OUT),
        ("north", "south", "pair-in", REGION),
        ("north", "north", "region-key", INTEGRITY),
        ("north", "north", "identity", labels.identity_key("north", "p0")),
    ],
)
def test_no_key_is_carried_to_where_it_must_never_be(
    officers: Officers, source: str, destination: str, purpose: str, label: str
) -> None:
    with pytest.raises(InvalidRequest):
        officers.carry((source, "p0"), (destination, "p1"), purpose, label)
