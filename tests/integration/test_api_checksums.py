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
    "verify": lambda north: north.uma.crypto.Verify,
    "verify-mac": lambda north: north.uma.crypto.Verify,
    "wrap": lambda north: north.uma.crypto.WrapKey,
    "unwrap": lambda north: north.uma.crypto.UnwrapKey,
    "move": lambda north: north.uma.crypto.ReEncrypt,
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
    if rpc in {"verify", "verify-mac"}:
        signing = _request(north, "mac" if rpc == "verify-mac" else "sign")
        return pb.VerifyRequest(
            name=signing.name,
            algorithm=signing.algorithm,
            digest=signing.digest,
            data=signing.data,
            signature=north.uma.crypto.Sign(signing).signature,
        )
    return _wrapping(north, rpc) if "wrap" in rpc else _ciphering(north, rpc)


def _wrapping(north: Served, rpc: str) -> Any:
    wrap = pb.WrapKeyRequest(name="keys/aes", algorithm="A256KW", plaintext=bytes(32))
    if rpc == "wrap":
        return wrap
    wrapped = north.uma.crypto.WrapKey(wrap).wrapped
    return pb.UnwrapKeyRequest(name="keys/aes", algorithm="A256KW", wrapped=wrapped)


def _ciphering(north: Served, rpc: str) -> Any:
    encrypt = pb.EncryptRequest(
        name="keys/aes",
        algorithm="A256GCM",
        plaintext=b"secret",
        additional_authenticated_data=b"about it",
    )
    if rpc == "encrypt":
        return encrypt
    sealed = north.uma.crypto.Encrypt(encrypt)
    if rpc == "move":
        return pb.ReEncryptRequest(
            name=sealed.name,
            algorithm="A256GCM",
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
            additional_authenticated_data=b"about it",
            target_name="keys/aes",
            target_algorithm="A256GCM",
            target_additional_authenticated_data=b"about it now",
        )
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
    ("verify", "digest"),
    ("verify", "signature"),
    ("verify-mac", "digest"),
    ("wrap", "plaintext"),
    ("unwrap", "wrapped"),
    ("move", "ciphertext"),
    ("move", AAD),
    ("move", f"target_{AAD}"),
]


@pytest.mark.parametrize(("rpc", "field"), CHECKED)
def test_a_checksum_that_fits_is_confirmed_and_one_that_was_not_sent_is_not(
    north: Served, rpc: str, field: str
) -> None:
    request = _request(north, rpc)
    call = RPCS[rpc](north)
    maced = rpc in {"mac", "verify-mac"}
    data = request.data if maced else getattr(request, field)

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
        ("wrap", "wrapped"),
        ("unwrap", "plaintext"),
        ("move", "ciphertext"),
    ],
)
def test_what_is_answered_comes_with_its_checksum(
    north: Served, rpc: str, field: str
) -> None:
    answer = RPCS[rpc](north)(_request(north, rpc))

    assert getattr(answer, f"{field}_crc32c") == crc(getattr(answer, field))


@pytest.mark.parametrize("without", [False, True])
def test_a_data_key_comes_with_its_checksums(*, north: Served, without: bool) -> None:
    made = north.uma.crypto.GenerateDataKey(
        pb.GenerateDataKeyRequest(name="keys/aes", without_plaintext=without)
    )

    assert made.wrapped_crc32c == crc(made.wrapped)
    assert made.plaintext_crc32c == crc(made.plaintext)
    assert bool(made.plaintext) is not without


def test_everything_that_can_be_damaged_has_a_checksum() -> None:
    """Of every field of bytes in a request: its own, or that of what it stands for."""
    bare = set()
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        if message.name.endswith("Request"):
            names = set(message.fields_by_name)
            bare |= {
                f.name
                for f in message.fields
                if f.type == f.TYPE_BYTES and f"{f.name}_crc32c" not in names
            }
    # Of a ciphertext they are part; `data` is summed in the place of `digest`.
    assert bare == {"iv", "tag", "data"}


def test_the_checksum_is_the_standard_one() -> None:
    """RFC 3720, appendix B.4: 32 bytes of zeros."""
    assert crc(bytes(32)) == 0x8A9136AA
