"""Callers with certificates of the right CA, and names of their own choosing.

The attacker has a certificate that the vault's CA issued: where an organisation's own
CA serves, what stands in its fields is not the vault's to say.
"""

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from hsmvault.api.identity import read
from hsmvault.model.access import CRYPTO_AUDITOR, CRYPTO_USER
from hsmvault.model.errors import Unauthenticated
from hsmvault.v1.access_service_pb2 import (
    DeleteRoleAssignmentRequest,
    GetRoleAssignmentRequest,
)
from hsmvault.v1.crypto_service_pb2 import SignRequest
from hsmvault.v1.key_service_pb2 import CreateKeyRequest
from hsmvault.v1.region_service_pb2 import WaitForPositionRequest
from hsmvault.v1.resources_pb2 import Key, KeySpec
from tests.support.certified import certified
from tests.support.served import Served, grant, make_key, refusal, served, signed

NOW = datetime.datetime.now(datetime.UTC)
NEVER = "1.north.999999999"


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as one:
        make_key(one, "a")
        yield one


def test_a_uri_that_is_spelled_like_a_common_name_is_nobody(
    north: Served, tmp_path: Path
) -> None:
    name = x509.UniformResourceIdentifier("CN=uma")
    eve = north.connect(certified(tmp_path, "eve", x509.SubjectAlternativeName([name])))

    told = refusal(lambda: signed(eve, "keys/a"))

    assert told[0] is grpc.StatusCode.UNAUTHENTICATED


def test_a_common_name_that_is_spelled_like_a_spiffe_id_is_a_common_name(
    tmp_path: Path, north: Served
) -> None:
    assert north.store.head() is not None
    shown = certified(tmp_path, "spiffe://acme/app")

    assert read(shown.certificate).principal == "CN=spiffe://acme/app"


def test_a_certificate_that_the_parser_chokes_on_is_no_bug_of_ours(
    tmp_path: Path, north: Served
) -> None:
    assert north.store.head() is not None
    # A subject alternative name, twice: cut out and put in again under its own OID.
    names = [x509.UniformResourceIdentifier("spiffe://acme/app")]
    other = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("2.5.29.127"),
        x509.SubjectAlternativeName(names).public_bytes(),
    )
    shown = certified(tmp_path, "eve", x509.SubjectAlternativeName(names), other)
    der = x509.load_pem_x509_certificate(shown.certificate).public_bytes(Encoding.DER)
    twice = der.replace(bytes.fromhex("0603551d7f"), bytes.fromhex("0603551d11"))

    with pytest.raises(Unauthenticated):
        read(_pem(twice))


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


def test_a_refusal_does_not_tell_whether_an_assignment_exists(north: Served) -> None:
    grant(north, "kim", CRYPTO_AUDITOR, "/keys/b")
    there = grant(north, "eve", CRYPTO_USER, "/keys/a").name
    missing = "roleAssignments/missing"

    for call in (
        lambda name: north.kim.access.GetRoleAssignment(
            GetRoleAssignmentRequest(name=name)
        ),
        lambda name: north.kim.access.DeleteRoleAssignment(
            DeleteRoleAssignmentRequest(name=name)
        ),
    ):
        told = refusal(lambda: call(there))  # noqa: B023  (called at once)
        guessed = refusal(lambda: call(missing))  # noqa: B023

        assert told[1] == "ACCESS_DENIED"
        assert told == guessed


def test_callers_without_a_role_who_wait_do_not_keep_others_from_writing(
    north: Served,
) -> None:
    """Any certificate suffices to wait for a position that never comes."""
    calls = [
        north.eve.regions.WaitForPosition.future(
            WaitForPositionRequest(position=NEVER), timeout=60
        )
        for _ in range(64)
    ] + [
        north.eve.crypto.Sign.future(
            SignRequest(name="keys/a"), metadata=(("min-position", NEVER),), timeout=60
        )
        for _ in range(64)
    ]
    # On the same connection, so it comes after them.
    assert refusal(lambda: signed(north.eve, "keys/a"))[1] == "ACCESS_DENIED"
    try:
        made = north.uma.keys.CreateKey(
            CreateKeyRequest(key_id="b", key=Key(spec=KeySpec(type="EC"))), timeout=5
        )
        assert made.name == "keys/b"
        assert signed(north.uma, "keys/a").signature
    finally:
        for call in calls:
            call.cancel()


_SPIFFE = [x509.UniformResourceIdentifier("spiffe://acme/app")]


@pytest.mark.parametrize(
    ("extensions", "why"),
    [
        ([x509.SubjectAlternativeName(_SPIFFE * 2)], "names 2 URIs"),
        (
            [
                x509.SubjectAlternativeName(
                    [*_SPIFFE, x509.UniformResourceIdentifier("https://acme/app")]
                )
            ],
            "names 2 URIs",
        ),
        (
            [
                x509.SubjectAlternativeName(
                    [x509.UniformResourceIdentifier("https://acme/app")]
                )
            ],
            "is no principal",
        ),
        ([x509.BasicConstraints(ca=True, path_length=0)], "CA's certificate"),
        ([x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])], "another use"),
        ([x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])], "another use"),
    ],
)
def test_az_14_a_certificate_of_several_names_or_for_another_use_is_nobodys(
    north: Served, tmp_path: Path, extensions: list[x509.ExtensionType], why: str
) -> None:
    """Whatever TLS made of it: libraries differ in what they look at."""
    assert north.store.head() is not None
    shown = certified(tmp_path, "uma", *extensions)

    with pytest.raises(Unauthenticated, match=why):
        read(shown.certificate)


def test_az_14_other_names_than_the_one_uri_are_not_looked_at(
    north: Served, tmp_path: Path
) -> None:
    """A host name, or a mail address, is nobody's word about who calls."""
    assert north.store.head() is not None
    names = [x509.DNSName("ada"), x509.RFC822Name("ada@acme"), *_SPIFFE]
    shown = certified(tmp_path, "ada", x509.SubjectAlternativeName(names))

    assert read(shown.certificate).principal == "spiffe://acme/app"
    hosts = x509.SubjectAlternativeName([x509.DNSName("ada")])
    assert read(certified(tmp_path, "eve", hosts).certificate).principal == "CN=eve"


@pytest.mark.parametrize(
    "alias", ["UMA", "Uma", "uma ", " uma", "um\u0430", "uma\u200b"]
)
def test_az_16_a_name_that_is_nearly_another_is_somebody_else(
    north: Served, tmp_path: Path, alias: str
) -> None:
    """By case, by spaces, by letters that look alike: no alias shares anything."""
    told = refusal(lambda: signed(north.connect(certified(tmp_path, alias)), "keys/a"))

    assert told[1] in {"ACCESS_DENIED", "UNAUTHENTICATED"}
