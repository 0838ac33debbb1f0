"""Cryptographic input at its edges, over gRPC: refused or false, and never a crash.

And what the store may hold: envelopes that this region's HSM has signed for, each in
its own place, and never what was in them.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from hsmvault.hsm import public
from hsmvault.model.algorithms import Curve
from hsmvault.model.errors import IntegrityFailure
from hsmvault.model.vault_records import VaultRecord
from hsmvault.v1 import crypto_service_pb2 as pb
from tests.support.served import (
    PAGE_KEY,
    VAULT_ID,
    Served,
    genesis,
    make_key,
    refusal,
    served,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
DATA_LOSS = grpc.StatusCode.DATA_LOSS
ORDERS = {
    "P-256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "P-256K": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    "P-384": int(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
        "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
        16,
    ),
    "P-521": int(
        "01FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFA"
        "51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409",
        16,
    ),
}
SIGNING = {
    "P-256": ("ES256", 32, 32),
    "P-256K": ("ES256K", 32, 32),
    "P-384": ("ES384", 48, 48),
    "P-521": ("ES512", 64, 66),
}
"""Algorithm, length of the digest, length of r and of s."""


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    guarded = VaultRecord(VAULT_ID, 1, 1, page_key=PAGE_KEY, ecdsa_fault_guard=True)
    with served(
        tmp_path_factory.mktemp("north"), records=genesis(settings=guarded)
    ) as one:
        for curve in ORDERS:
            make_key(one, f"ec-{curve}", curve=curve)
        make_key(one, "aes", "oct", bits=256)
        yield one


def _decrypt(north: Served, **fields: Any) -> pb.DecryptResponse:
    return north.uma.crypto.Decrypt(
        pb.DecryptRequest(name="keys/aes", algorithm="A256GCM", **fields)
    )


# --- GCM ---------------------------------------------------------------------------


def test_cr_02_nobody_can_say_what_iv_or_tag_to_encrypt_with(north: Served) -> None:
    """SoftHSM would take any IV, also one it has seen, and tags of 32 bits."""
    for message in (pb.EncryptRequest, pb.WrapKeyRequest, pb.GenerateDataKeyRequest):
        assert not {"iv", "tag", "nonce"} & set(message.DESCRIPTOR.fields_by_name)
    assert "target_iv" not in pb.ReEncryptRequest.DESCRIPTOR.fields_by_name

    sealed = [
        north.uma.crypto.Encrypt(
            pb.EncryptRequest(name="keys/aes", algorithm="A256GCM", plaintext=b"x")
        )
        for _ in range(50)
    ]

    assert {(len(s.iv), len(s.tag)) for s in sealed} == {(12, 16)}
    assert len({s.iv for s in sealed}) == 50


@pytest.mark.parametrize("iv", [0, 1, 8, 11, 13, 16, 64])
@pytest.mark.parametrize("tag", [0, 4, 12, 15, 17])
def test_cr_02_no_other_iv_and_no_shorter_tag_decrypts(
    north: Served, iv: int, tag: int
) -> None:
    good = north.uma.crypto.Encrypt(
        pb.EncryptRequest(name="keys/aes", algorithm="A256GCM", plaintext=b"secret")
    )

    for fields in (
        {"iv": good.iv, "tag": (good.tag * 2)[:tag]},
        {"iv": (good.iv * 8)[:iv], "tag": good.tag},
    ):
        told = refusal(
            lambda f=fields: _decrypt(north, ciphertext=good.ciphertext, **f)  # type: ignore[misc]
        )
        assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")


@pytest.mark.parametrize("length", [0, 11, 12, 27, 28, 65_536, 65_537, 250_000])
def test_cr_03_a_ciphertext_of_any_length_is_refused_in_order(
    north: Served, length: int
) -> None:
    """go-kms-wrapping panicked at short ones. 2 GiB do not fit into a message."""
    told = refusal(
        lambda: _decrypt(north, ciphertext=bytes(length), iv=bytes(12), tag=bytes(16))
    )

    assert told[0] is INVALID
    assert told[1] in {"CIPHERTEXT_INVALID", "TOO_LARGE"}


def test_cr_10_an_unwrapped_key_of_64_mib_is_refused_and_the_next_call_served(
    north: Served,
) -> None:
    def unwrap(wrapped: bytes) -> bytes:
        return north.uma.crypto.UnwrapKey(
            pb.UnwrapKeyRequest(name="keys/aes", algorithm="A256KW", wrapped=wrapped)
        ).plaintext

    good = north.uma.crypto.WrapKey(
        pb.WrapKeyRequest(name="keys/aes", algorithm="A256KW", plaintext=bytes(32))
    ).wrapped
    for bad in (b"", good[:-1], good[:-8], good + bytes(8), good[::-1]):
        told = refusal(lambda b=bad: unwrap(b))  # type: ignore[misc]
        assert told[:2] == (INVALID, "CIPHERTEXT_INVALID")

    with pytest.raises(grpc.RpcError) as huge:
        unwrap(bytes(64 << 20))

    assert isinstance(huge.value, grpc.Call)
    assert huge.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert unwrap(good) == bytes(32)


# --- ECDSA -------------------------------------------------------------------------


def _verify(north: Served, curve: str, signature: bytes) -> bool:
    algorithm, digest, _ = SIGNING[curve]
    return north.uma.crypto.Verify(
        pb.VerifyRequest(
            name=f"keys/ec-{curve}",
            algorithm=algorithm,
            digest=bytes(digest),
            signature=signature,
        )
    ).valid


def _signed(north: Served, curve: str) -> bytes:
    algorithm, digest, _ = SIGNING[curve]
    return north.uma.crypto.Sign(
        pb.SignRequest(
            name=f"keys/ec-{curve}", algorithm=algorithm, digest=bytes(digest)
        )
    ).signature


@pytest.mark.parametrize("curve", ORDERS)
def test_cr_04_no_signature_at_the_edges_is_valid(north: Served, curve: str) -> None:
    order, size = ORDERS[curve], SIGNING[curve][2]
    good = _signed(north, curve)
    r, s = int.from_bytes(good[:size]), int.from_bytes(good[size:])
    edges = (0, 1, order - 1, order, order + 1, 2 ** (8 * size) - 1)

    def raw(one: int, other: int) -> bytes:
        return one.to_bytes(size) + other.to_bytes(size)

    der = encode_dss_signature(r, s)
    bad = [
        *(raw(edge, s) for edge in edges),
        *(raw(r, edge) for edge in edges),
        *(raw(edge, edge) for edge in edges),
        raw(s, r),
        der,
        der + b"\0",
        b"\x30\x80" + der[2:],
        good[:-1],
        good + b"\0",
        b"\0" + good,
        good[:size],
        good[:size] + b"\0" + good[size:],
    ]

    assert [_verify(north, curve, signature) for signature in bad] == [False] * len(bad)
    assert _verify(north, curve, good)


@pytest.mark.parametrize("curve", ORDERS)
def test_cr_04_a_signature_and_its_twin_are_both_valid_and_ours_have_one_form(
    north: Served, curve: str
) -> None:
    """(r, n - s) is as good as (r, s), by the standard; the README says so."""
    order, size = ORDERS[curve], SIGNING[curve][2]
    for _ in range(8):
        good = _signed(north, curve)
        s = int.from_bytes(good[size:])

        assert len(good) == 2 * size
        assert _verify(north, curve, good)
        assert _verify(north, curve, good[:size] + (order - s).to_bytes(size))


@pytest.mark.parametrize("curve", Curve)
def test_cr_05_a_token_s_point_is_read_bare_and_in_der_alike(curve: Curve) -> None:
    """Parsec #599: tokens differ in it."""
    key = ec.generate_private_key(public._CURVES[curve]).public_key()
    bare = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    length = bytes([len(bare)]) if len(bare) < 128 else b"\x81" + bytes([len(bare)])

    read = {public.of_point(curve, point) for point in (bare, b"\x04" + length + bare)}

    assert read == {key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)}


def test_cr_04_no_point_off_its_curve_becomes_a_public_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    bare = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    off = bare[:-1] + bytes([bare[-1] ^ 1])

    for point in (
        off,
        b"\x04" + bytes([65]) + off,
        compressed,
        b"\x04" + bytes([33]) + compressed,
        b"\0",
        b"\x04\x01\0",
        b"",
        bare + b"\0",
        b"\x04" + bytes([65]) + bare + b"\0",
        b"\x06" + bare[1:],
        bytes(65),
        b"\x04" + b"\xff" * 64,
    ):
        with pytest.raises(IntegrityFailure, match="none of curve P-256"):
            public.of_point(Curve.P256, point)
    assert load_der_public_key(public.of_point(Curve.P256, bare)) == key


class Faulty:
    """Turns a bit in the next signature."""

    def __init__(self, north: Served) -> None:
        self._sign = north.hsm.sign
        self.left = 1

    def __call__(self, *arguments: Any) -> bytes:
        signature = self._sign(*arguments)
        if not self.left:
            return signature
        self.left -= 1
        return bytes([signature[0] ^ 4]) + signature[1:]


@pytest.mark.parametrize("curve", ORDERS)
def test_cr_14_a_faulty_ecdsa_signature_does_not_leave_where_the_vault_guards(
    north: Served, curve: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(north.hsm, "sign", Faulty(north))

    code, _, message = refusal(lambda: _signed(north, curve))

    assert code is DATA_LOSS
    assert "not given out" in message
    # It was opened anew; the next one is right.
    assert _verify(north, curve, _signed(north, curve))


def test_cr_14_without_the_guard_nothing_is_verified_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard is the vault's to choose: it costs a verification per signature."""
    with served(tmp_path) as unguarded:
        make_key(unguarded, "ec-P-256")
        monkeypatch.setattr(unguarded.hsm, "sign", Faulty(unguarded))

        faulty = _signed(unguarded, "P-256")

        assert not _verify(unguarded, "P-256", faulty)


# --- the store ---------------------------------------------------------------------

Edit = Callable[[sqlite3.Connection, list[str]], None]


def _set(column: str, value: object) -> Edit:
    def edit(database: sqlite3.Connection, versions: list[str]) -> None:
        database.execute(
            f"UPDATE wrapped SET {column}=? WHERE version=?",  # noqa: S608
            (value, versions[0]),
        )

    return edit


def _swap(*columns: str) -> Edit:
    """Put the second key's into the first one's place."""

    def edit(database: sqlite3.Connection, versions: list[str]) -> None:
        for column in columns:
            database.execute(
                f"UPDATE wrapped SET {column}=(SELECT {column} FROM wrapped "  # noqa: S608
                "WHERE version=?) WHERE version=?",
                (versions[1], versions[0]),
            )

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        _swap("wrapped"),
        _swap("wrapped", "mac"),
        _swap("wrapped", "mac", "wrapping_key", "mechanism"),
        _set("mechanism", "AES-CBC"),
        _set("mechanism", "GCM"),
        _set("wrapping_key", "region/south"),
        _set("wrapping_key", "pair/south/north"),
        _set("mac", b""),
        _set("mac", bytes(32)),
        _set("wrapped", b""),
        _set("wrapped", bytes(40)),
    ],
    ids=lambda edit: edit.__qualname__,
)
def test_cr_09_a_wrapped_key_in_another_s_place_or_dress_is_refused(
    tmp_path: Path, edit: Edit
) -> None:
    keys: dict[str, bytes] = {}
    with served(tmp_path, keys=keys) as before:
        versions = [
            make_key(before, name, "oct", bits=256).current_version.rpartition("/")[2]
            for name in ("victim", "attackers")
        ]
    with closing(sqlite3.connect(tmp_path / "north.db")) as database:
        edit(database, versions)
        database.commit()

    with served(tmp_path, keys=keys, partition="p1") as after:
        request = pb.EncryptRequest(
            name="keys/victim", algorithm="A256GCM", plaintext=b"x"
        )
        assert refusal(lambda: after.uma.crypto.Encrypt(request))[0] is DATA_LOSS
        request.name = "keys/attackers"
        assert after.uma.crypto.Encrypt(request).ciphertext


def test_cr_09_a_wrapped_key_of_another_vault_or_region_is_refused(
    tmp_path: Path,
) -> None:
    """Another vault's row, whole, under the name that this vault has for its own."""
    (tmp_path / "other").mkdir()
    with served(tmp_path / "other") as other:
        make_key(other, "victim", "oct", bits=256)
    keys: dict[str, bytes] = {}
    with served(tmp_path, keys=keys) as before:
        made = make_key(before, "victim", "oct", bits=256).current_version
    with closing(sqlite3.connect(tmp_path / "other" / "north.db")) as database:
        row = database.execute("SELECT wrapped, mac FROM wrapped").fetchone()
    with closing(sqlite3.connect(tmp_path / "north.db")) as database:
        database.execute("UPDATE wrapped SET wrapped=?, mac=?", row)
        database.commit()

    with served(tmp_path, keys=keys, partition="p1") as after:
        request = pb.EncryptRequest(name=made, algorithm="A256GCM", plaintext=b"x")
        assert refusal(lambda: after.uma.crypto.Encrypt(request))[0] is DATA_LOSS


def test_cr_17_nothing_that_was_opened_is_written_anywhere(tmp_path: Path) -> None:
    """Plaintexts, data keys and unwrapped keys: not in the store, not beside it."""
    canary = b"planted canary: pay 5 to mallory, thirty-six"
    with served(tmp_path) as north:
        make_key(north, "aes", "oct", bits=256)
        crypto = north.uma.crypto
        sealed = crypto.Encrypt(
            pb.EncryptRequest(name="keys/aes", algorithm="A256GCM", plaintext=canary)
        )
        opened = crypto.Decrypt(
            pb.DecryptRequest(
                name=sealed.name,
                algorithm="A256GCM",
                ciphertext=sealed.ciphertext,
                iv=sealed.iv,
                tag=sealed.tag,
            )
        )
        wrapped = crypto.WrapKey(
            pb.WrapKeyRequest(
                name="keys/aes", algorithm="A256KW", plaintext=canary[:40]
            )
        )
        crypto.UnwrapKey(
            pb.UnwrapKeyRequest(
                name="keys/aes", algorithm="A256KW", wrapped=wrapped.wrapped
            )
        )
        made = crypto.GenerateDataKey(pb.GenerateDataKeyRequest(name="keys/aes"))
        assert opened.plaintext == canary

        written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]

    assert len(written) > 3
    for secret in (canary, canary[:40], made.plaintext):
        for spelling in (secret, secret.hex().encode()):
            assert not [raw for raw in written if spelling in raw]
