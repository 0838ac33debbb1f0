"""What was damaged on its way is not acted on, and what is answered can be checked."""

from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import grpc
import pytest

from hsmvault.v1 import crypto_service_pb2 as pb
from tests.support.served import Served, make_key, refusal, served

AAD = "additional_authenticated_data"
RPCS: dict[str, Callable[[Served], Any]] = {
    "sign": lambda north: north.uma.crypto.Sign,
    "mac": lambda north: north.uma.crypto.Sign,
    "encrypt": lambda north: north.uma.crypto.Encrypt,
    "decrypt": lambda north: north.uma.crypto.Decrypt,
}


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("north")) as one:
        make_key(one, "ec")
        make_key(one, "aes", "oct", bits=256)
        make_key(one, "mac", "oct", bits=256, operations=["sign", "verify"])
        yield one


def crc(data: bytes) -> int:
    value: int = google_crc32c.value(data)
    return value


def _request(north: Served, rpc: str) -> Any:
    if rpc == "sign":
        return pb.SignRequest(name="keys/ec", algorithm="ES256", digest=bytes(32))
    if rpc == "mac":
        return pb.SignRequest(name="keys/mac", algorithm="HS256", data=b"pay 5")
    encrypt = pb.EncryptRequest(
        name="keys/aes",
        algorithm="A256GCM",
        plaintext=b"secret",
        additional_authenticated_data=b"about it",
    )
    if rpc == "encrypt":
        return encrypt
    sealed = north.uma.crypto.Encrypt(encrypt)
    return pb.DecryptRequest(
        name=sealed.name,
        algorithm="A256GCM",
        ciphertext=sealed.ciphertext,
        iv=sealed.iv,
        tag=sealed.tag,
        additional_authenticated_data=b"about it",
    )


CHECKED = [
    ("sign", "digest"),
    ("mac", "digest"),
    ("encrypt", "plaintext"),
    ("encrypt", AAD),
    ("decrypt", "ciphertext"),
    ("decrypt", AAD),
]


@pytest.mark.parametrize(("rpc", "field"), CHECKED)
def test_a_checksum_that_fits_is_confirmed_and_one_that_was_not_sent_is_not(
    north: Served, rpc: str, field: str
) -> None:
    request = _request(north, rpc)
    call = RPCS[rpc](north)
    data = request.data if rpc == "mac" else getattr(request, field)

    without = call(request)
    setattr(request, f"{field}_crc32c", crc(data))
    with_it = call(request)

    assert not getattr(without, f"verified_{field}_crc32c")
    assert getattr(with_it, f"verified_{field}_crc32c")


@pytest.mark.parametrize(("rpc", "field"), CHECKED)
@pytest.mark.parametrize("wrong", [0, 1, 2**32 - 1])
def test_what_does_not_fit_its_checksum_is_refused_by_name(
    north: Served, rpc: str, field: str, wrong: int
) -> None:
    request = _request(north, rpc)
    setattr(request, f"{field}_crc32c", wrong)

    code, reason, message = refusal(lambda: RPCS[rpc](north)(request))

    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CHECKSUM_MISMATCH")
    assert message.startswith(field)


@pytest.mark.parametrize(
    ("rpc", "field"),
    [
        ("sign", "signature"),
        ("mac", "signature"),
        ("encrypt", "ciphertext"),
        ("decrypt", "plaintext"),
    ],
)
def test_what_is_answered_comes_with_its_checksum(
    north: Served, rpc: str, field: str
) -> None:
    answer = RPCS[rpc](north)(_request(north, rpc))

    assert getattr(answer, f"{field}_crc32c") == crc(getattr(answer, field))


def test_the_checksum_is_the_standard_one() -> None:
    """RFC 3720, appendix B.4: 32 bytes of zeros."""
    assert crc(bytes(32)) == 0x8A9136AA
