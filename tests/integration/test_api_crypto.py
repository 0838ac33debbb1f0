"""The use of keys over real gRPC and mTLS: what works, and what is refused how."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import load_der_public_key
from google.protobuf.field_mask_pb2 import FieldMask

from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.v1.key_service_pb2 import GetPublicKeyRequest, UpdateKeyRequest
from hsmvault.v1.resources_pb2 import Key
from tests.support.served import Served, make_key, refusal, served

INVALID = grpc.StatusCode.INVALID_ARGUMENT
KIB_64 = 64 * 1024
KEYS = {
    "ec": ("EC", 0, "P-256"),
    "p384": ("EC", 0, "P-384"),
    "p521": ("EC", 0, "P-521"),
    "k256": ("EC", 0, "P-256K"),
    "rsa": ("RSA", 2048, ""),
    "a128": ("oct", 128, ""),
    "a192": ("oct", 192, ""),
    "a256": ("oct", 256, ""),
    "h384": ("oct", 384, ""),
    "h512": ("oct", 512, ""),
}


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("north")) as one:
        for key_id, (kind, bits, curve) in KEYS.items():
            make_key(one, key_id, kind, bits=bits, curve=curve)
        make_key(one, "h256", "oct", bits=256, operations=["sign", "verify"])
        yield one


def _encrypt(
    north: Served, key: str, algorithm: str, **more: Any
) -> pb.EncryptResponse:
    return north.uma.crypto.Encrypt(
        pb.EncryptRequest(name=f"keys/{key}", algorithm=algorithm, **more)
    )


def _decrypt(north: Served, sealed: pb.EncryptResponse, **more: Any) -> bytes:
    fields = {
        "name": sealed.name,
        "algorithm": sealed.algorithm,
        "ciphertext": sealed.ciphertext,
        "iv": sealed.iv,
        "tag": sealed.tag,
    }
    answer = north.uma.crypto.Decrypt(pb.DecryptRequest(**(fields | more)))
    return answer.plaintext


@pytest.mark.parametrize(
    ("key", "algorithm", "digest"),
    [
        ("ec", "ES256", 32),
        ("p384", "ES384", 48),
        ("p521", "ES512", 64),
        ("k256", "ES256K", 32),
        ("rsa", "RS256", 32),
        ("rsa", "RS384", 48),
        ("rsa", "RS512", 64),
        ("rsa", "PS256", 32),
        ("rsa", "PS384", 48),
        ("rsa", "PS512", 64),
    ],
)
def test_what_a_key_signed_it_verifies_and_nothing_else(
    north: Served, key: str, algorithm: str, digest: int
) -> None:
    name = f"keys/{key}"
    signed = north.uma.crypto.Sign(
        pb.SignRequest(name=name, algorithm=algorithm, digest=bytes(digest))
    )

    def valid(signature: bytes, of: bytes = bytes(digest)) -> bool:
        answer = north.uma.crypto.Verify(
            pb.VerifyRequest(
                name=name, algorithm=algorithm, digest=of, signature=signature
            )
        )
        assert answer.name == signed.name
        return answer.valid

    flipped = bytes([signed.signature[0] ^ 1]) + signed.signature[1:]
    assert valid(signed.signature)
    assert not valid(flipped)
    assert not valid(signed.signature, b"\1" * digest)
    assert not valid(signed.signature[:-1])
    assert not valid(b"")
    assert not valid(bytes(5000))


@pytest.mark.parametrize(
    ("key", "algorithm", "digest", "reason"),
    [
        ("ec", "", 32, "ALGORITHM_UNSUPPORTED"),
        ("ec", "es256", 32, "ALGORITHM_UNSUPPORTED"),
        ("ec", "none", 32, "ALGORITHM_UNSUPPORTED"),
        ("ec", "ES384", 48, "ALGORITHM_UNSUPPORTED"),
        ("ec", "ES256K", 32, "ALGORITHM_UNSUPPORTED"),
        ("ec", "RS256", 32, "ALGORITHM_UNSUPPORTED"),
        ("ec", "A256GCM", 32, "ALGORITHM_UNSUPPORTED"),
        ("a256", "ES256", 32, "ALGORITHM_UNSUPPORTED"),
        ("rsa", "RSA-OAEP", 32, "ALGORITHM_UNSUPPORTED"),
        ("ec", "ES256", 0, "DIGEST_INVALID"),
        ("ec", "ES256", 31, "DIGEST_INVALID"),
        ("ec", "ES256", 33, "DIGEST_INVALID"),
        ("rsa", "RS512", 32, "DIGEST_INVALID"),
        ("ec", "ES256", 100_000, "DIGEST_INVALID"),
    ],
)
def test_what_cannot_be_signed_is_refused_naming_what_can(
    north: Served, key: str, algorithm: str, digest: int, reason: str
) -> None:
    code, given, message = refusal(
        lambda: north.uma.crypto.Sign(
            pb.SignRequest(
                name=f"keys/{key}", algorithm=algorithm, digest=bytes(digest)
            )
        )
    )

    assert (code, given) == (INVALID, reason)
    assert message


@pytest.mark.parametrize(
    ("key", "algorithm"), [("h256", "HS256"), ("h384", "HS384"), ("h512", "HS512")]
)
def test_what_a_key_maced_it_verifies_and_nothing_else(
    north: Served, key: str, algorithm: str
) -> None:
    name = f"keys/{key}"
    data = b"x" * KIB_64
    signed = north.uma.crypto.Sign(
        pb.SignRequest(name=name, algorithm=algorithm, data=data)
    )

    def valid(signature: bytes, of: bytes = data) -> bool:
        answer = north.uma.crypto.Verify(
            pb.VerifyRequest(
                name=name, algorithm=algorithm, data=of, signature=signature
            )
        )
        return answer.valid

    assert len(signed.signature) * 8 == int(algorithm[2:])
    assert valid(signed.signature)
    assert not valid(signed.signature, b"y" + data[1:])
    for bad in (b"", signed.signature[:-1], signed.signature + b"\0", bytes(5000)):
        assert not valid(bad)


@pytest.mark.parametrize(
    ("key", "algorithm", "fields", "reason"),
    [
        ("h256", "HS256", {}, "INVALID_REQUEST"),
        ("h256", "HS256", {"digest": bytes(32)}, "INVALID_REQUEST"),
        ("h256", "HS256", {"digest": b"x", "data": b"x"}, "INVALID_REQUEST"),
        ("h256", "HS256", {"data": bytes(KIB_64 + 1)}, "TOO_LARGE"),
        ("ec", "ES256", {"data": b"x"}, "INVALID_REQUEST"),
        ("ec", "ES256", {"digest": bytes(32), "data": b"x"}, "INVALID_REQUEST"),
        ("h256", "HS384", {"data": b"x"}, "ALGORITHM_UNSUPPORTED"),
        ("h384", "A256GCM", {"data": b"x"}, "ALGORITHM_UNSUPPORTED"),
        ("a256", "HS256", {"data": b"x"}, "OPERATION_NOT_PERMITTED"),
        ("a128", "HS256", {"data": b"x"}, "ALGORITHM_UNSUPPORTED"),
    ],
)
def test_digest_and_data_are_not_taken_for_each_other(
    north: Served, key: str, algorithm: str, fields: dict[str, Any], reason: str
) -> None:
    for call in (
        lambda: north.uma.crypto.Sign(
            pb.SignRequest(name=f"keys/{key}", algorithm=algorithm, **fields)
        ),
        lambda: north.uma.crypto.Verify(
            pb.VerifyRequest(
                name=f"keys/{key}", algorithm=algorithm, signature=b"s", **fields
            )
        ),
    ):
        assert refusal(call)[:2] == (INVALID, reason)


def test_an_hmac_key_does_no_aes(north: Served) -> None:
    told = refusal(lambda: _encrypt(north, "h256", "A256GCM", plaintext=b"x"))

    assert told[:2] == (INVALID, "OPERATION_NOT_PERMITTED")


def test_no_key_gets_both_roles_of_an_oct_key(north: Served) -> None:
    mixed = ["sign", "encrypt"]
    made = refusal(lambda: make_key(north, "both", "oct", bits=256, operations=mixed))
    updates = []
    for key, operations in (("a256", ["sign"]), ("h256", ["encrypt"]), ("a256", mixed)):
        change = UpdateKeyRequest(
            key=Key(name=f"keys/{key}", operations=operations),
            update_mask=FieldMask(paths=["operations"]),
        )
        updates.append(refusal(lambda c=change: north.uma.keys.UpdateKey(c)))  # type: ignore[misc]

    assert {told[:2] for told in (made, *updates)} == {(INVALID, "INVALID_REQUEST")}


def test_the_public_half_verifies_what_was_signed(north: Served) -> None:
    der = north.uma.keys.GetPublicKey(GetPublicKeyRequest(name="keys/ec")).der

    signed = north.uma.crypto.Sign(
        pb.SignRequest(name="keys/ec", algorithm="ES256", digest=bytes(32))
    )

    public = load_der_public_key(der)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    r, s = (int.from_bytes(p) for p in (signed.signature[:32], signed.signature[32:]))
    public.verify(
        encode_dss_signature(r, s), bytes(32), ec.ECDSA(Prehashed(hashes.SHA256()))
    )


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        ("a128", "A128GCM"),
        ("a192", "A192GCM"),
        ("a256", "A256GCM"),
        ("rsa", "RSA-OAEP"),
        ("rsa", "RSA-OAEP-256"),
    ],
)
def test_what_was_encrypted_is_decrypted(
    north: Served, key: str, algorithm: str
) -> None:
    sealed = _encrypt(north, key, algorithm, plaintext=b"pay 5")

    assert _decrypt(north, sealed) == b"pay 5"
    assert (len(sealed.iv), len(sealed.tag)) == ((0, 0) if key == "rsa" else (12, 16))


def test_additional_data_is_needed_again(north: Served) -> None:
    sealed = _encrypt(
        north,
        "a256",
        "A256GCM",
        plaintext=b"x" * KIB_64,
        additional_authenticated_data=b"y" * KIB_64,
    )

    plain = _decrypt(north, sealed, additional_authenticated_data=b"y" * KIB_64)
    told = refusal(lambda: _decrypt(north, sealed))

    assert plain == b"x" * KIB_64
    assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")


@pytest.mark.parametrize("field", ["ciphertext", "iv", "tag"])
@pytest.mark.parametrize(
    "tamper",
    [
        lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda _raw: b"",
        lambda _raw: bytes(28),
    ],
    ids=["flipped", "cut", "longer", "empty", "other"],
)
def test_every_failure_of_a_ciphertext_is_one_error(
    north: Served, field: str, tamper: Any
) -> None:
    sealed = _encrypt(north, "a256", "A256GCM", plaintext=b"secret")

    told = refusal(
        lambda: _decrypt(north, sealed, **{field: tamper(getattr(sealed, field))})
    )

    assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")
    assert "secret" not in told[2]


@pytest.mark.parametrize("algorithm", ["RSA-OAEP", "RSA-OAEP-256"])
@pytest.mark.parametrize("ciphertext", [b"", bytes(255), bytes(256), bytes(257)])
def test_no_failure_of_rsa_decryption_tells_more_than_another(
    north: Served, algorithm: str, ciphertext: bytes
) -> None:
    told = refusal(
        lambda: north.uma.crypto.Decrypt(
            pb.DecryptRequest(
                name="keys/rsa", algorithm=algorithm, ciphertext=ciphertext
            )
        )
    )

    assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")


@pytest.mark.parametrize(
    ("key", "algorithm", "fields", "reason"),
    [
        ("a256", "A256GCM", {"plaintext": bytes(KIB_64 + 1)}, "TOO_LARGE"),
        (
            "a256",
            "A256GCM",
            {"additional_authenticated_data": bytes(KIB_64 + 1)},
            "TOO_LARGE",
        ),
        ("a256", "A256GCM", {"plaintext": bytes(300 * 1024)}, "TOO_LARGE"),
        ("rsa", "RSA-OAEP", {"plaintext": bytes(215)}, "TOO_LARGE"),
        ("rsa", "RSA-OAEP-256", {"plaintext": bytes(191)}, "TOO_LARGE"),
        (
            "rsa",
            "RSA-OAEP",
            {"additional_authenticated_data": b"x"},
            "INVALID_REQUEST",
        ),
        ("a256", "A128GCM", {}, "ALGORITHM_UNSUPPORTED"),
        ("a256", "A256KW", {}, "ALGORITHM_UNSUPPORTED"),
        ("ec", "A256GCM", {}, "ALGORITHM_UNSUPPORTED"),
    ],
)
def test_what_cannot_be_encrypted_is_refused(
    north: Served, key: str, algorithm: str, fields: dict[str, bytes], reason: str
) -> None:
    told = refusal(lambda: _encrypt(north, key, algorithm, **fields))

    assert told[:2] == (INVALID, reason)


@pytest.mark.parametrize(
    ("key", "algorithm", "length"),
    [
        ("a128", "A128KW", 16),
        ("a192", "A192KW", 40),
        ("a256", "A256KW", 4096),
        ("rsa", "RSA-OAEP", 214),
        ("rsa", "RSA-OAEP-256", 190),
    ],
)
def test_what_was_wrapped_is_unwrapped(
    north: Served, key: str, algorithm: str, length: int
) -> None:
    name = f"keys/{key}"
    wrapped = north.uma.crypto.WrapKey(
        pb.WrapKeyRequest(name=name, algorithm=algorithm, plaintext=b"k" * length)
    )

    def unwrap(raw: bytes) -> pb.UnwrapKeyResponse:
        return north.uma.crypto.UnwrapKey(
            pb.UnwrapKeyRequest(name=wrapped.name, algorithm=algorithm, wrapped=raw)
        )

    assert unwrap(wrapped.wrapped).plaintext == b"k" * length
    flipped = bytes([wrapped.wrapped[0] ^ 1]) + wrapped.wrapped[1:]
    for touched in (flipped, wrapped.wrapped[:-8], b"", bytes(16), bytes(8000)):
        told = refusal(lambda raw=touched: unwrap(raw))  # type: ignore[misc]
        assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")


@pytest.mark.parametrize(
    ("key", "algorithm", "length", "reason"),
    [
        ("a256", "A256KW", 0, "INVALID_REQUEST"),
        ("a256", "A256KW", 8, "INVALID_REQUEST"),
        ("a256", "A256KW", 17, "INVALID_REQUEST"),
        ("a256", "A256KW", 4104, "TOO_LARGE"),
        ("rsa", "RSA-OAEP-256", 191, "TOO_LARGE"),
        ("rsa", "RSA-OAEP", 0, "INVALID_REQUEST"),
        ("ec", "A256KW", 16, "ALGORITHM_UNSUPPORTED"),
    ],
)
def test_what_cannot_be_wrapped_is_refused(
    north: Served, key: str, algorithm: str, length: int, reason: str
) -> None:
    told = refusal(
        lambda: north.uma.crypto.WrapKey(
            pb.WrapKeyRequest(
                name=f"keys/{key}", algorithm=algorithm, plaintext=bytes(length)
            )
        )
    )

    assert told[:2] == (INVALID, reason)


@pytest.mark.parametrize(
    ("key", "algorithm", "chosen"),
    [
        ("a128", "", "A128KW"),
        ("a256", "", "A256KW"),
        ("rsa", "", "RSA-OAEP-256"),
        ("rsa", "RSA-OAEP", "RSA-OAEP"),
    ],
)
def test_a_data_key_comes_in_clear_and_wrapped(
    north: Served, key: str, algorithm: str, chosen: str
) -> None:
    made = north.uma.crypto.GenerateDataKey(
        pb.GenerateDataKeyRequest(name=f"keys/{key}", algorithm=algorithm)
    )

    opened = north.uma.crypto.UnwrapKey(
        pb.UnwrapKeyRequest(
            name=made.name, algorithm=made.algorithm, wrapped=made.wrapped
        )
    )
    assert made.algorithm == chosen
    assert len(made.plaintext) == 32
    assert opened.plaintext == made.plaintext


@pytest.mark.parametrize(
    ("key", "count", "reason"),
    [
        ("a256", 8, "INVALID_REQUEST"),
        ("a256", -1, "INVALID_REQUEST"),
        ("a256", 513, "INVALID_REQUEST"),
        ("a256", 33, "INVALID_REQUEST"),
        ("rsa", 512, "TOO_LARGE"),
        ("ec", 32, "ALGORITHM_UNSUPPORTED"),
    ],
)
def test_a_data_key_that_cannot_be_is_refused(
    north: Served, key: str, count: int, reason: str
) -> None:
    told = refusal(
        lambda: north.uma.crypto.GenerateDataKey(
            pb.GenerateDataKeyRequest(name=f"keys/{key}", bytes=count)
        )
    )

    assert told[:2] == (INVALID, reason)


@pytest.mark.parametrize("count", [1, 128])
def test_random_bytes_are_as_many_as_asked_for(north: Served, count: int) -> None:
    ask = pb.GetRandomBytesRequest(count=count)

    assert len(north.uma.crypto.GetRandomBytes(ask).data) == count


@pytest.mark.parametrize("count", [0, -1, 129, 2**31 - 1])
def test_too_many_random_bytes_are_refused(north: Served, count: int) -> None:
    ask = pb.GetRandomBytesRequest(count=count)

    told = refusal(lambda: north.uma.crypto.GetRandomBytes(ask))

    assert told[:2] == (INVALID, "INVALID_REQUEST")


def test_a_version_of_another_key_is_not_found(north: Served) -> None:
    name = north.uma.crypto.Sign(
        pb.SignRequest(name="keys/ec", algorithm="ES256", digest=bytes(32))
    ).name
    foreign = name.replace("keys/ec", "keys/k256")

    told = refusal(
        lambda: north.uma.crypto.Sign(
            pb.SignRequest(name=foreign, algorithm="ES256K", digest=bytes(32))
        )
    )

    assert told[0] is grpc.StatusCode.NOT_FOUND


def test_every_answer_says_where_and_at_which_position_it_was_served(
    north: Served,
) -> None:
    """Also once the position moved; an item of a batch leaves it to the batch."""
    crypto, gcm, digest = north.uma.crypto, "A256GCM", bytes(32)

    for key_id in ("moved", "moved-again"):
        written = make_key(north, key_id)
        sign = pb.SignRequest(name=written.name, algorithm="ES256", digest=digest)
        signed = crypto.Sign(sign)
        sealed = _encrypt(north, "a256", gcm, plaintext=digest)
        of: dict[str, Any] = {
            "name": sealed.name,
            "algorithm": gcm,
            "ciphertext": sealed.ciphertext,
            "iv": sealed.iv,
            "tag": sealed.tag,
        }
        wrap: dict[str, Any] = {"name": "keys/a256", "algorithm": "A256KW"}
        wrapped = crypto.WrapKey(pb.WrapKeyRequest(**wrap, plaintext=digest))
        answers: list[Any] = [
            signed,
            crypto.Verify(
                pb.VerifyRequest(
                    name=signed.name,
                    algorithm="ES256",
                    digest=digest,
                    signature=signed.signature,
                )
            ),
            sealed,
            crypto.Decrypt(pb.DecryptRequest(**of)),
            crypto.ReEncrypt(
                pb.ReEncryptRequest(**of, target_name="keys/a256", target_algorithm=gcm)
            ),
            wrapped,
            crypto.UnwrapKey(pb.UnwrapKeyRequest(**wrap, wrapped=wrapped.wrapped)),
            crypto.GenerateDataKey(pb.GenerateDataKeyRequest(**wrap)),
            crypto.GetRandomBytes(pb.GetRandomBytesRequest(count=8)),
            crypto.Batch(pb.BatchRequest(items=[pb.BatchItem(sign=sign)])),
        ]

        asked = {type(answer).DESCRIPTOR for answer in answers}
        service = pb.DESCRIPTOR.services_by_name["CryptoService"]
        assert asked == {method.output_type for method in service.methods}
        for answer in answers:
            assert (answer.served.region, answer.served.partition) == ("north", "p0")
            assert answer.served.position == written.position
