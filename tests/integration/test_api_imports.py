"""Keys that come in the clear, over TLS: what is taken, and what is refused and why."""

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hsmvault.api.checksums import crc32c
from hsmvault.model.algorithms import KeySpec, KeyType
from hsmvault.v1.key_service_pb2 import (
    DeleteKeyRequest,
    ImportKeyRequest,
    ListKeyVersionsRequest,
)
from hsmvault.v1.resources_pb2 import Key
from tests.support.importing import begun, brought, refused, spec_of, used
from tests.support.incoming import b64, jwk_of, number, outside, public_of, secret_of
from tests.support.partitions import SPECS
from tests.support.served import Served, make_key, refusal, served

P256 = KeySpec.of("EC")
RSA = KeySpec.of("RSA", bits=2048)
AES = KeySpec.of("oct", bits=256)
SMALL = [spec for spec in SPECS if spec.bits <= RSA.bits]
PAIRS = [spec for spec in SMALL if spec.type is not KeyType.OCT]
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        yield one


@pytest.mark.parametrize("spec", SMALL, ids=str)
def test_a_jwk_is_imported_as_what_it_is(north: Served, spec: KeySpec) -> None:
    key = outside(spec)

    made = brought(north, "brought", jwk=jwk_of(key))

    assert made.spec == spec_of(spec)
    assert sorted(made.operations) == sorted(spec.default_operations)
    used(north, made.name, spec, key)
    versions = north.uma.keys.ListKeyVersions(ListKeyVersionsRequest(parent=made.name))
    assert [v.imported for v in versions.key_versions] == [True]


@pytest.mark.parametrize("encoding", [Encoding.DER, Encoding.PEM])
@pytest.mark.parametrize("spec", PAIRS, ids=str)
def test_pkcs8_is_imported_as_what_it_is(
    north: Served, spec: KeySpec, encoding: Encoding
) -> None:
    key = outside(spec)
    assert not isinstance(key, bytes)
    raw = key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())

    made = brought(north, "brought", pkcs8=raw, key=Key(spec=spec_of(spec)))

    used(north, made.name, spec, key)


def test_az_09_an_existing_or_deleted_name_is_never_a_new_key(north: Served) -> None:
    make_key(north, "Live")
    make_key(north, "gone")
    north.uma.keys.DeleteKey(DeleteKeyRequest(name="keys/gone"))
    by = begun(north, "free")
    head = north.store.head()

    for key_id in ("live", "LIVE", "gone", "Gone"):
        for fields in (
            {"jwk": jwk_of(outside(AES))},
            {
                "key_transfer_blob": bytes(300),
                "import_name": by.name,
                "key": Key(spec=spec_of(AES)),
            },
        ):
            code, reason, _ = refusal(partial(brought, north, key_id, **fields))
            assert (code.name, reason) == ("ALREADY_EXISTS", "ALREADY_EXISTS")
        code, _, _ = refusal(partial(begun, north, key_id))
        assert code is grpc.StatusCode.ALREADY_EXISTS

    assert north.store.head() == head


def test_cr_08_a_key_is_what_the_request_says_or_refused(north: Served) -> None:
    jwk = jwk_of(outside(AES))
    for spec in (P256, RSA, KeySpec.of("oct", bits=128)):
        told = refused(north, jwk=jwk, key=Key(spec=spec_of(spec)))
        assert "the material is a key of type oct-256" in told

    told = refused(north, pkcs8=secret_of(outside(RSA)), key=Key(spec=spec_of(P256)))
    assert "the material is a key of type RSA-2048" in told


def test_cr_08_a_jwk_does_no_more_than_it_says_of_itself(north: Served) -> None:
    key = outside(AES)
    made = brought(north, "mac", jwk=jwk_of(key, alg="HS256"))
    assert sorted(made.operations) == ["sign", "verify"]
    made = brought(north, "enc", jwk=jwk_of(key, key_ops=["encrypt", "decrypt"]))
    assert sorted(made.operations) == ["decrypt", "encrypt"]
    made = brought(north, "ec", jwk=jwk_of(outside(P256), use="sig", kid="x", ext=True))
    assert sorted(made.operations) == ["sign", "verify"]

    for wrong in (
        {"alg": "HS256", "key_ops": ["encrypt"]},
        {"alg": "HS512"},
        {"alg": "ES256"},
        {"alg": "none"},
        {"use": "enc", "alg": "HS256"},
        {"use": ["sig"]},
        {"key_ops": 7},
        {"key_ops": ["deriveKey"]},
    ):
        refused(north, jwk=jwk_of(key, **wrong))
    told = refused(north, jwk=jwk_of(key, alg="HS256"), key=Key(operations=["encrypt"]))
    assert "go beyond what the JWK says" in told


def test_cr_08_an_aes_key_is_not_made_an_hmac_key_too(north: Served) -> None:
    code, _, told = refusal(
        lambda: brought(
            north,
            "both",
            jwk=jwk_of(outside(AES)),
            key=Key(operations=["encrypt", "sign"]),
        )
    )

    assert code is INVALID
    assert "never both" in told


def test_cr_06_weak_rsa_keys_are_refused_with_the_reason(north: Served) -> None:
    for bits, exponent, why in (
        (1024, 65537, "RSA key of 1024 bits"),
        (2048, 3, "public exponent"),
        (2056, 65537, "RSA key of 2056 bits"),
    ):
        key = rsa.generate_private_key(exponent, bits)
        assert why in refused(north, jwk=jwk_of(key))
        assert why in refused(north, pkcs8=secret_of(key))


def test_cr_06_rsa_numbers_that_contradict_each_other_are_refused(
    north: Served,
) -> None:
    key = outside(RSA)
    assert isinstance(key, rsa.RSAPrivateKey)
    good = json.loads(jwk_of(key))
    other = json.loads(jwk_of(outside(RSA, 1)))
    n = key.private_numbers().public_numbers.n

    for name in ("p", "q", "d", "dp", "dq", "qi", "n"):
        wrong = json.dumps(good | {name: other[name]}).encode()
        assert "inconsistent" in refused(north, jwk=wrong)
    for name, value, why in (
        ("n", n - 1, "even"),
        ("e", 65536, "exponent"),
        ("e", 65538, "exponent is even"),
        ("e", 1, "exponent"),
        ("d", 65537, "private exponent is so short"),
    ):
        wrong = json.dumps(good | {name: number(value)}).encode()
        assert why in refused(north, jwk=wrong)
    assert "more than two primes" in refused(
        north, jwk=json.dumps(good | {"oth": []}).encode()
    )


def test_ec_points_and_values_that_are_none_of_the_curve_are_refused(
    north: Served,
) -> None:
    key = outside(P256)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    good = json.loads(jwk_of(key))
    other = json.loads(jwk_of(outside(P256, 1)))
    order = ec.SECP256R1().group_order

    for change, why in (
        ({"y": other["y"]}, "does not lie on"),
        ({"x": b64(bytes(32)), "y": b64(bytes(32))}, "does not lie on"),
        ({"x": other["x"], "y": other["y"]}, "does not belong to its private value"),
        ({"d": other["d"]}, "does not belong to its private value"),
        ({"d": b64(bytes(32))}, "private value is 0"),
        ({"d": b64(order.to_bytes(32))}, "not below the order"),
        ({"d": b64(bytes(31))}, "has 31 octets"),
        ({"crv": "P-384"}, "octets"),
        ({"crv": "P-257"}, "none of"),
        ({"crv": ["P-256"]}, "none of"),
    ):
        assert why in refused(north, jwk=json.dumps(good | change).encode())


def test_what_is_no_private_key_is_refused_and_not_quoted(north: Served) -> None:
    key = outside(P256)
    assert not isinstance(key, bytes)
    good = jwk_of(key)
    secret = json.loads(good)["d"]
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    jwks = (
        b"",
        b"[]",
        b"null",
        b"\xff" + good,
        good[:-1],
        good[:-1] + f',"d":"{secret}"}}'.encode(),
        good.replace(b"EC", b"OKP"),
        good.replace(b'"d"', b'"D"'),
        good.replace(b'"d": "', b'"d": "='),
        b"[" * 10_000,
        b'{"kty":"oct","k":""}',
        b'{"kty":"oct","k":7}',
        b'{"kty":"oct","k":"AAAA"}',
        json.dumps({"kty": "oct", "k": b64(bytes(33))}).encode(),
    )
    others = (
        b"",
        b"nonsense",
        pem + pem,
        pem.replace(b"PRIVATE KEY", b"RSA PRIVATE KEY"),
        key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        ),
        key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        ),
        secret_of(key) + b"\0",
        secret_of(key)[:-1],
        public_of(key),
        secret_of(ec.generate_private_key(ec.SECP224R1())),
        secret_of(ec.generate_private_key(ec.BrainpoolP256R1())),
    )

    told = [refused(north, jwk=raw) for raw in jwks]
    told += [refused(north, pkcs8=raw) for raw in others]

    assert not [message for message in told if secret in message]


def test_material_is_bounded_and_summed(north: Served) -> None:
    code, reason, _ = refusal(lambda: brought(north, "big", jwk=b" " * 16_385))
    assert (code, reason) == (INVALID, "TOO_LARGE")

    jwk = jwk_of(outside(AES))
    code, reason, _ = refusal(
        lambda: brought(north, "bad", jwk=jwk, material_crc32c=crc32c(jwk) ^ 1)
    )
    assert (code, reason) == (INVALID, "CHECKSUM_MISMATCH")

    brought(north, "good", jwk=jwk, material_crc32c=crc32c(jwk))


def test_one_kind_of_material_is_given_and_nothing_that_does_not_go_with_it(
    north: Served,
) -> None:
    key = Key(spec=spec_of(P256))
    for fields in (
        {},
        {"key": key},
        {"jwk": jwk_of(outside(AES)), "import_name": "imports/" + "0" * 32},
        {"key_transfer_blob": bytes(300), "key": key},
        {"key_transfer_blob": bytes(300), "import_name": "x", "key": key},
        {"key_transfer_blob": bytes(300), "import_name": "imports/" + "0" * 32},
        {
            "key_transfer_blob": bytes(300),
            "import_name": "imports/" + "0" * 32,
            "key": Key(spec=spec_of(AES)),
            "public_key": public_of(outside(P256)),
        },
    ):
        code, _, _ = refusal(partial(brought, north, "odd", **fields))
        assert code is INVALID, fields


def test_repeating_an_import_by_its_request_id_gives_the_same_answer(
    north: Served,
) -> None:
    jwk = jwk_of(outside(AES))
    first = brought(north, "twice", jwk=jwk, request_id="r1")

    assert brought(north, "twice", jwk=jwk, request_id="r1") == first
    code, _, told = refusal(
        lambda: brought(north, "twice", jwk=jwk_of(outside(AES, 1)), request_id="r1")
    )
    assert code is INVALID
    assert "was used for another request" in told


def test_neither_the_key_nor_a_plain_hash_of_the_request_is_stored(
    north: Served, tmp_path: Path
) -> None:
    key = b"canary-canary-canary-canary-ABCD"
    request = ImportKeyRequest(key_id="canary", jwk=jwk_of(key), request_id="r1")
    north.uma.keys.ImportKey(request)

    stored = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    plain = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    for secret in (key, b64(key).encode(), key.hex().encode(), plain):
        assert secret not in stored
