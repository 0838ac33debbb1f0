"""Moving ciphertexts between keys, and binding them to a context, over real gRPC."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hsmvault.model.access import CRYPTO_USER
from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.v1.key_service_pb2 import RotateKeyRequest
from hsmvault.vault.plan import context_aad
from tests.support.served import Caller, Served, grant, make_key, refusal, served

INVALID = grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED
CONTEXT = {"tenant": "7", "table": "salaries"}
SECRET = b"planted canary: pay 5"


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("north")) as one:
        for key_id in ("source", "target"):
            make_key(one, key_id, "oct", bits=256)
        make_key(one, "rsa", "RSA", bits=2048)
        make_key(one, "open-only", "oct", bits=256, operations=["decrypt"])
        make_key(one, "ec")
        yield one


def _encrypt(north: Served, key: str = "source", **more: Any) -> pb.EncryptResponse:
    algorithm = "RSA-OAEP-256" if key == "rsa" else "A256GCM"
    return north.uma.crypto.Encrypt(
        pb.EncryptRequest(
            name=f"keys/{key}", algorithm=algorithm, plaintext=SECRET, **more
        )
    )


def _move(
    who: Caller, sealed: pb.EncryptResponse, target: str = "target", **more: Any
) -> pb.ReEncryptResponse:
    fields: dict[str, Any] = {
        "name": sealed.name,
        "algorithm": sealed.algorithm,
        "ciphertext": sealed.ciphertext,
        "iv": sealed.iv,
        "tag": sealed.tag,
        "target_name": f"keys/{target}",
        "target_algorithm": "RSA-OAEP-256" if target == "rsa" else "A256GCM",
    }
    return who.crypto.ReEncrypt(pb.ReEncryptRequest(**(fields | more)))


def _decrypt(
    north: Served, sealed: pb.EncryptResponse | pb.ReEncryptResponse, **more: Any
) -> bytes:
    return north.uma.crypto.Decrypt(
        pb.DecryptRequest(
            name=sealed.name,
            algorithm=sealed.algorithm,
            ciphertext=sealed.ciphertext,
            iv=sealed.iv,
            tag=sealed.tag,
            **more,
        )
    ).plaintext


@pytest.mark.parametrize(
    ("source", "target"), [("source", "target"), ("source", "rsa"), ("rsa", "target")]
)
def test_what_was_moved_to_another_key_decrypts_by_it(
    north: Served, source: str, target: str
) -> None:
    sealed = _encrypt(north, source)

    moved = _move(north.uma, sealed, target)

    assert moved.source_name == sealed.name
    assert moved.name.startswith(f"keys/{target}/versions/")
    assert SECRET not in moved.SerializeToString()
    assert _decrypt(north, moved) == SECRET


def test_a_ciphertext_moves_to_the_newest_version_of_its_key(north: Served) -> None:
    sealed = _encrypt(north)
    rotated = north.uma.keys.RotateKey(RotateKeyRequest(name="keys/source"))

    moved = _move(north.uma, sealed, "source")

    assert (moved.source_name, moved.name) == (sealed.name, rotated.name)
    assert _decrypt(north, moved) == SECRET


@pytest.mark.parametrize("at", ["source", "target"])
def test_it_takes_a_permission_on_both_keys(north: Served, at: str) -> None:
    """And whoever lacks one does not learn whether the ciphertext is any good."""
    sealed = _encrypt(north)
    who = {"source": "kim", "target": "lea"}[at]
    caller: Caller = getattr(north, who)
    lacking = {
        "source": ("encrypt", "keys/target"),
        "target": ("decrypt", "keys/source"),
    }
    grant(north, who, CRYPTO_USER, f"/keys/{at}")
    broken = pb.EncryptResponse(name=sealed.name, algorithm="A256GCM")

    for ciphertext in (sealed, broken):
        code, _, message = refusal(lambda c=ciphertext: _move(caller, c))  # type: ignore[misc]
        assert code is DENIED
        assert all(word in message for word in lacking[at])

    other = lacking[at][1]
    grant(north, who, CRYPTO_USER, f"/{other}")
    assert _decrypt(north, _move(caller, sealed)) == SECRET


def test_a_refused_target_is_the_same_whether_it_exists_or_not(north: Served) -> None:
    sealed = _encrypt(north)
    grant(north, "bea", CRYPTO_USER, "/keys/source")

    told = {
        refusal(lambda k=key: _move(north.bea, sealed, k))[2].replace(key, "?")  # type: ignore[misc]
        for key in ("target", "missing")
    }

    assert len(told) == 1


@pytest.mark.parametrize(
    ("target", "more", "reason"),
    [
        ("ec", {}, "ALGORITHM_UNSUPPORTED"),
        ("open-only", {}, "OPERATION_NOT_PERMITTED"),
        ("target", {"target_algorithm": "A128GCM"}, "ALGORITHM_UNSUPPORTED"),
        ("target", {"tag": bytes(16)}, "CIPHERTEXT_INVALID"),
        ("target", {"ciphertext": b""}, "CIPHERTEXT_INVALID"),
        ("target", {"encryption_context": CONTEXT}, "CIPHERTEXT_INVALID"),
        ("rsa", {"target_encryption_context": CONTEXT}, "INVALID_REQUEST"),
        ("target", {"target_name": "target"}, "MALFORMED_NAME"),
    ],
)
def test_what_cannot_be_moved_is_refused(
    north: Served, target: str, more: dict[str, Any], reason: str
) -> None:
    sealed = _encrypt(north)

    told = refusal(lambda: _move(north.uma, sealed, target, **more))

    assert told[:2] == (INVALID, reason)
    assert SECRET.decode() not in told[2]


def test_a_ciphertext_is_bound_to_its_context(north: Served) -> None:
    sealed = _encrypt(north, encryption_context=CONTEXT)
    turned = dict(reversed(CONTEXT.items()))

    assert _decrypt(north, sealed, encryption_context=turned) == SECRET
    assert (
        _decrypt(north, sealed, additional_authenticated_data=context_aad(CONTEXT))
        == SECRET
    )
    for wrong in ({}, {"tenant": "7"}, CONTEXT | {"tenant": "8"}, CONTEXT | {"x": ""}):
        told = refusal(lambda c=wrong: _decrypt(north, sealed, encryption_context=c))  # type: ignore[misc]
        assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")


def test_a_context_is_not_taken_over_unless_it_is_asked_for(north: Served) -> None:
    sealed = _encrypt(north, encryption_context=CONTEXT)

    bare = _move(north.uma, sealed, encryption_context=CONTEXT)
    bound = _move(
        north.uma,
        sealed,
        encryption_context=CONTEXT,
        target_encryption_context=CONTEXT | {"year": "2026"},
    )

    assert _decrypt(north, bare) == SECRET
    assert (
        _decrypt(north, bound, encryption_context=CONTEXT | {"year": "2026"}) == SECRET
    )
    assert refusal(lambda: _decrypt(north, bound))[1] == "CIPHERTEXT_INVALID"


@pytest.mark.parametrize(
    ("key", "more", "reason"),
    [
        (
            "source",
            {"encryption_context": CONTEXT, "additional_authenticated_data": b"x"},
            "INVALID_REQUEST",
        ),
        ("source", {"encryption_context": {"": "x"}}, "INVALID_REQUEST"),
        (
            "source",
            {"encryption_context": {str(n): "x" for n in range(65)}},
            "TOO_LARGE",
        ),
        ("source", {"encryption_context": {"long": "x" * 65_536}}, "TOO_LARGE"),
        ("rsa", {"encryption_context": CONTEXT}, "INVALID_REQUEST"),
    ],
)
def test_a_context_that_cannot_be_bound_is_refused(
    north: Served, key: str, more: dict[str, Any], reason: str
) -> None:
    assert refusal(lambda: _encrypt(north, key, **more))[:2] == (INVALID, reason)


def test_a_data_key_can_be_made_without_anybody_seeing_it(north: Served) -> None:
    made = north.uma.crypto.GenerateDataKey(
        pb.GenerateDataKeyRequest(name="keys/source", without_plaintext=True)
    )

    opened = north.uma.crypto.UnwrapKey(
        pb.UnwrapKeyRequest(
            name=made.name, algorithm=made.algorithm, wrapped=made.wrapped
        )
    )
    assert made.plaintext == b""
    assert len(opened.plaintext) == 32
