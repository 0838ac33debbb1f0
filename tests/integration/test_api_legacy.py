"""Legacy algorithms over gRPC: where the vault allows them, and then no oracles."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from hsmvault.model.log import Kind
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1 import crypto_service_pb2 as pb
from hsmvault.vault.ports import Expect
from tests.support.served import (
    PAGE_KEY,
    VAULT_ID,
    Served,
    change,
    genesis,
    make_key,
    refusal,
    served,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
REFUSED = (grpc.StatusCode.FAILED_PRECONDITION, "ALGORITHM_LEGACY")
ALLOWED = ("A256CBC", "A256CBCPAD", "A128CBCPAD", "RSA1_5")
CBC = ["encrypt", "decrypt"]


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    settings = VaultRecord(VAULT_ID, 1, 1, page_key=PAGE_KEY, legacy_algorithms=ALLOWED)
    records = genesis(settings=settings)
    with served(tmp_path_factory.mktemp("north"), records=records) as one:
        make_key(one, "a128", "oct", bits=128, operations=CBC)
        make_key(one, "a256", "oct", bits=256, operations=CBC)
        make_key(one, "wraps", "oct", bits=256)
        make_key(one, "rsa", "RSA", bits=2048)
        yield one


def _encrypt(
    north: Served, key: str, algorithm: str, plaintext: bytes = bytes(16), **more: Any
) -> pb.EncryptResponse:
    return north.uma.crypto.Encrypt(
        pb.EncryptRequest(
            name=f"keys/{key}", algorithm=algorithm, plaintext=plaintext, **more
        )
    )


def _decrypt(north: Served, sealed: pb.EncryptResponse, **more: Any) -> bytes:
    fields = {
        "name": sealed.name,
        "algorithm": sealed.algorithm,
        "ciphertext": sealed.ciphertext,
        "iv": sealed.iv,
    }
    return north.uma.crypto.Decrypt(pb.DecryptRequest(**(fields | more))).plaintext


@pytest.mark.parametrize(
    ("key", "algorithm", "length"),
    [
        ("a256", "A256CBC", 16),
        ("a256", "A256CBC", 65_536),
        ("a256", "A256CBCPAD", 0),
        ("a256", "A256CBCPAD", 15),
        ("a128", "A128CBCPAD", 65_536),
        ("rsa", "RSA1_5", 0),
        ("rsa", "RSA1_5", 245),
    ],
)
def test_what_was_encrypted_by_a_legacy_algorithm_is_decrypted(
    north: Served, key: str, algorithm: str, length: int
) -> None:
    sealed = _encrypt(north, key, algorithm, b"x" * length)

    assert _decrypt(north, sealed) == b"x" * length
    assert len(sealed.iv) == (0 if key == "rsa" else 16)
    assert sealed.tag == b""
    assert sealed.iv == b"" or sealed.iv != _encrypt(north, key, algorithm).iv


def test_a_key_is_wrapped_by_rsa1_5_where_it_is_allowed(north: Served) -> None:
    wrapped = north.uma.crypto.WrapKey(
        pb.WrapKeyRequest(name="keys/rsa", algorithm="RSA1_5", plaintext=b"k" * 32)
    )

    opened = north.uma.crypto.UnwrapKey(
        pb.UnwrapKeyRequest(
            name=wrapped.name, algorithm="RSA1_5", wrapped=wrapped.wrapped
        )
    )
    assert opened.plaintext == b"k" * 32


def test_what_the_vault_does_not_name_is_refused_naming_the_command(
    north: Served,
) -> None:
    """A128CBCPAD is named, A128CBC is not."""
    code, reason, message = refusal(lambda: _encrypt(north, "a128", "A128CBC"))

    assert (code, reason) == REFUSED
    assert "hsmvault vault set --legacy-algorithm +A128CBC" in message


def test_what_is_no_longer_allowed_is_refused_at_once(tmp_path: Any) -> None:
    """Also to a key that was used by it a moment ago, and also to decrypt."""
    settings = VaultRecord(
        VAULT_ID, 1, 1, page_key=PAGE_KEY, legacy_algorithms=("RSA1_5",)
    )
    with served(tmp_path, records=genesis(settings=settings)) as north:
        make_key(north, "rsa", "RSA", bits=2048)
        sealed = _encrypt(north, "rsa", "RSA1_5")
        assert _decrypt(north, sealed) == bytes(16)

        epoch = north.store.epoch()
        assert epoch is not None
        changed = dataclasses.replace(settings, revision=2, legacy_algorithms=())
        north.store.commit(
            [change(changed, north.hsm)], expect=Expect(epoch), time_ms=2
        )

        assert north.store.last_index([Kind.VAULT]) > 2
        for call in (
            lambda: _encrypt(north, "rsa", "RSA1_5"),
            lambda: _decrypt(north, sealed),
        ):
            assert refusal(call)[:2] == REFUSED


@pytest.mark.parametrize("algorithm", ["A256CBC", "A256CBCPAD"])
def test_a_key_that_wraps_does_no_cbc(north: Served, algorithm: str) -> None:
    """By CBC one block at a time is decrypted bare: so AES-KW is peeled (RFC 3394)."""
    told = refusal(lambda: _encrypt(north, "wraps", algorithm))

    assert told[:2] == (INVALID, "OPERATION_NOT_PERMITTED")


@pytest.mark.parametrize(
    ("key", "algorithm", "fields", "reason"),
    [
        ("a256", "A256CBC", {"plaintext": b""}, "INVALID_REQUEST"),
        ("a256", "A256CBC", {"plaintext": bytes(17)}, "INVALID_REQUEST"),
        ("a256", "A256CBCPAD", {"plaintext": bytes(65_537)}, "TOO_LARGE"),
        (
            "a256",
            "A256CBCPAD",
            {"additional_authenticated_data": b"x"},
            "INVALID_REQUEST",
        ),
        (
            "a256",
            "A256CBCPAD",
            {"encryption_context": {"tenant": "7"}},
            "INVALID_REQUEST",
        ),
        ("a256", "A128CBC", {}, "ALGORITHM_UNSUPPORTED"),
        ("rsa", "A256CBC", {}, "ALGORITHM_UNSUPPORTED"),
        ("rsa", "RSA1_5", {"plaintext": bytes(246)}, "TOO_LARGE"),
        ("a256", "RSA1_5", {}, "ALGORITHM_UNSUPPORTED"),
    ],
)
def test_what_cannot_be_encrypted_so_is_refused(
    north: Served, key: str, algorithm: str, fields: dict[str, Any], reason: str
) -> None:
    told = refusal(lambda: _encrypt(north, key, algorithm, **fields))

    assert told[:2] == (INVALID, reason)


@pytest.mark.parametrize(
    "touched",
    [
        {"iv": b""},
        {"iv": bytes(12)},
        {"ciphertext": b""},
        {"ciphertext": bytes(15)},
        {"ciphertext": bytes(33)},
        {"tag": bytes(16)},
        # Decrypts to no padding that there is, all but certainly.
        {"iv": b"\xff" * 16, "ciphertext": bytes(16)},
    ],
    ids=repr,
)
def test_every_failure_of_a_cbc_ciphertext_is_one_error(
    north: Served, touched: dict[str, bytes]
) -> None:
    sealed = _encrypt(north, "a256", "A256CBCPAD", b"secret")

    code, reason, message = refusal(lambda: _decrypt(north, sealed, **touched))

    assert (code, reason) == (INVALID, "CIPHERTEXT_INVALID")
    assert message == f"the ciphertext does not decrypt with {sealed.name}"


# --- wrapping by GCM, bound to a context ------------------------------------------

CONTEXT = {"tenant": "7", "table": "salaries"}


def _unwrap(north: Served, made: Any, **more: Any) -> bytes:
    return north.uma.crypto.UnwrapKey(
        pb.UnwrapKeyRequest(
            name=made.name, algorithm=made.algorithm, wrapped=made.wrapped, **more
        )
    ).plaintext


def test_a_data_key_is_bound_to_its_context(north: Served) -> None:
    made = north.uma.crypto.GenerateDataKey(
        pb.GenerateDataKeyRequest(name="keys/wraps", encryption_context=CONTEXT)
    )
    turned = dict(reversed(CONTEXT.items()))

    assert made.algorithm == "A256GCM"
    assert len(made.wrapped) == 12 + 32 + 16
    assert _unwrap(north, made, encryption_context=turned) == made.plaintext
    for wrong in ({}, {"tenant": "7"}, CONTEXT | {"tenant": "8"}):
        told = refusal(lambda c=wrong: _unwrap(north, made, encryption_context=c))  # type: ignore[misc]
        assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")


@pytest.mark.parametrize("length", [1, 33, 4096])
def test_gcm_wraps_keys_of_any_length(north: Served, length: int) -> None:
    made = north.uma.crypto.WrapKey(
        pb.WrapKeyRequest(
            name="keys/wraps", algorithm="A256GCM", plaintext=b"k" * length
        )
    )

    assert _unwrap(north, made) == b"k" * length
    for cut in (b"", made.wrapped[:28], made.wrapped[:-1], made.wrapped + b"\0"):
        bad = pb.WrapKeyResponse(name=made.name, algorithm="A256GCM", wrapped=cut)
        told = refusal(lambda b=bad: _unwrap(north, b))  # type: ignore[misc]
        assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")


@pytest.mark.parametrize(("key", "algorithm"), [("wraps", "A256KW"), ("rsa", "RSA1_5")])
def test_a_context_that_nothing_binds_is_refused_not_ignored(
    north: Served, key: str, algorithm: str
) -> None:
    fields: Any = {"name": f"keys/{key}", "algorithm": algorithm}
    for call in (
        lambda: north.uma.crypto.WrapKey(
            pb.WrapKeyRequest(**fields, plaintext=bytes(32), encryption_context=CONTEXT)
        ),
        lambda: north.uma.crypto.UnwrapKey(
            pb.UnwrapKeyRequest(
                **fields, wrapped=bytes(256), encryption_context=CONTEXT
            )
        ),
        lambda: north.uma.crypto.GenerateDataKey(
            pb.GenerateDataKeyRequest(**fields, encryption_context=CONTEXT)
        ),
    ):
        assert refusal(call)[:2] == (INVALID, "INVALID_REQUEST")


def test_neither_decrypt_nor_unwrap_opens_what_the_other_s_rpc_made(
    north: Served,
) -> None:
    """Permission to decrypt is none to unwrap, though both are A256GCM by one key."""
    wrapped = north.uma.crypto.WrapKey(
        pb.WrapKeyRequest(name="keys/wraps", algorithm="A256GCM", plaintext=b"k" * 32)
    )
    raw = wrapped.wrapped
    parts: Any = {"iv": raw[:12], "ciphertext": raw[12:-16], "tag": raw[-16:]}
    bound = b"\0\0\0\x17hsmvault/wrapped-key/v1"
    sealed = _encrypt(north, "wraps", "A256GCM", b"k" * 32)

    told = []
    for aad in (b"", bound):
        request = pb.DecryptRequest(
            name=wrapped.name,
            algorithm="A256GCM",
            additional_authenticated_data=aad,
            **parts,
        )
        told.append(refusal(lambda r=request: north.uma.crypto.Decrypt(r))[1])  # type: ignore[misc]
    joined = pb.WrapKeyResponse(
        name=sealed.name,
        algorithm="A256GCM",
        wrapped=sealed.iv + sealed.ciphertext + sealed.tag,
    )
    told.append(refusal(lambda: _unwrap(north, joined))[1])

    assert told == ["CIPHERTEXT_INVALID", "INVALID_REQUEST", "CIPHERTEXT_INVALID"]


def test_ed25519_is_answered_by_the_reason_why_not(north: Served) -> None:
    code, reason, message = refusal(lambda: make_key(north, "ed", "OKP"))

    assert (code, reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED")
    assert "ES256" in message
