"""What the client sends besides what it is given, and what it does not believe."""

from typing import Any, cast

import google_crc32c
import pytest

from hsmvault.client.caller import Caller
from hsmvault.client.crypto import Crypto
from hsmvault.model.errors import IntegrityFailure
from hsmvault.v1 import crypto_service_pb2 as pb

DATA = b"what came back"
GOOD: int = google_crc32c.value(DATA)


class Answering:
    """A caller that answers what it is told to, and keeps the request."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.request: Any = None

    def call(self, _method: Any, request: Any, **_options: Any) -> Any:
        self.request = request
        return self.answer


def _crypto(answer: Any) -> tuple[Crypto, Answering]:
    answering = Answering(answer)
    return Crypto(cast("Caller", answering)), answering


def _ask(crypto: Crypto, rpc: str) -> Any:
    if rpc == "sign":
        return crypto.sign("box", "ES256", digest=bytes(32))
    if rpc == "encrypt":
        return crypto.encrypt("box", "A256GCM", b"secret", aad=b"about it")
    return crypto.decrypt("box", "A256GCM", b"sealed", aad=b"about it")


def _answer(rpc: str, *, crc32c: int, verified: bool = True) -> Any:
    if rpc == "sign":
        return pb.SignResponse(
            signature=DATA, signature_crc32c=crc32c, verified_digest_crc32c=verified
        )
    if rpc == "encrypt":
        return pb.EncryptResponse(
            ciphertext=DATA,
            ciphertext_crc32c=crc32c,
            verified_plaintext_crc32c=verified,
        )
    return pb.DecryptResponse(
        plaintext=DATA, plaintext_crc32c=crc32c, verified_ciphertext_crc32c=verified
    )


@pytest.mark.parametrize("rpc", ["sign", "encrypt", "decrypt"])
def test_an_answer_that_changed_on_its_way_is_not_given_out(rpc: str) -> None:
    good, _ = _crypto(_answer(rpc, crc32c=GOOD))
    bad, _ = _crypto(_answer(rpc, crc32c=GOOD ^ 1))
    unsummed, _ = _crypto(_answer(rpc, crc32c=0, verified=False))

    assert _ask(good, rpc)
    with pytest.raises(IntegrityFailure, match="CRC32C"):
        _ask(bad, rpc)
    assert _ask(unsummed, rpc)


@pytest.mark.parametrize(
    ("rpc", "sums"),
    [
        ("sign", {"digest": bytes(32)}),
        (
            "encrypt",
            {"plaintext": b"secret", "additional_authenticated_data": b"about it"},
        ),
        (
            "decrypt",
            {"ciphertext": b"sealed", "additional_authenticated_data": b"about it"},
        ),
    ],
)
def test_what_is_sent_comes_with_its_checksum(rpc: str, sums: dict[str, bytes]) -> None:
    crypto, answering = _crypto(_answer(rpc, crc32c=GOOD))

    _ask(crypto, rpc)

    for field, data in sums.items():
        summed = getattr(answering.request, f"{field}_crc32c")
        assert summed == google_crc32c.value(data)


def test_a_message_is_hashed_here_but_for_an_hmac() -> None:
    crypto, answering = _crypto(pb.SignResponse())

    crypto.sign("box", "ES256", message=b"pay 5")
    assert (len(answering.request.digest), answering.request.data) == (32, b"")

    crypto.sign("box", "HS256", message=b"pay 5")
    assert (answering.request.digest, answering.request.data) == (b"", b"pay 5")


def test_a_batch_answers_its_results() -> None:
    crypto, answering = _crypto(
        pb.BatchResponse(results=[pb.BatchResult(reference="1")])
    )
    item = pb.BatchItem(sign=pb.SignRequest(name="keys/box", algorithm="ES256"))

    results = crypto.batch([item])

    assert [r.reference for r in results] == ["1"]
    assert list(answering.request.items) == [item]
