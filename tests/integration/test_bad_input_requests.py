"""What no vault takes: each refused by one clear error, and nothing is changed by it.

The message names what is wrong, and what to do about it; the log stands where it stood,
and every partition serves on in the process that it was in.
"""

import datetime
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

import hsmvault
from hsmvault.client.errors import CertificateRefused
from hsmvault.regions.certificates import Authority, Certified
from hsmvault.regions.layout import PARTITIONS
from hsmvault.v1 import crypto_service_pb2 as crypto
from hsmvault.v1 import region_service_pb2 as regions
from tests.support import outside
from tests.support.bad_requests import (
    INVALID,
    LARGE,
    NAMES,
    NOT_NAMES,
    SETTINGS,
    SHAPE,
    Ask,
    Bad,
    add_region,
    encrypt_many,
    raw,
    tampered,
)
from tests.support.callers import SECONDS, Callers, create, key, populated_vault, sign
from tests.support.served import Caller, refusal

pytestmark = pytest.mark.softhsm


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callers]:
    with populated_vault(tmp_path_factory.mktemp("bad")) as callers:
        alice = callers()
        create(alice, "ec")
        create(alice, "rsa", "RSA", bits=2048)
        create(alice, "aes", "oct", bits=256)
        yield callers


@pytest.fixture(autouse=True)
def unchanged(call: Callers) -> Iterator[None]:
    """Whatever a test asked for, the region is as it was, and serves."""
    north = call.vault.north
    before = outside.newest(north), health(call)

    yield

    assert (outside.newest(north), health(call)) == before


def health(call: Callers) -> list[tuple[str, int, str]]:
    """Each partition's process, and where it serves."""
    north = call.vault.north
    found = []
    for name in PARTITIONS:
        signed = sign(call(partition=name), "keys/ec")
        found.append((name, north.partition(name)["pid"], signed.served.partition))
        assert north.partition(name)["restarts"] == 0
    return found


def refused(call: Callers, bad: Bad) -> None:
    code, reason, message = refusal(lambda: bad.ask(call(bad.who)))

    assert (code, reason) == (bad.code, bad.reason), message
    for word in bad.words:
        assert word in message
    assert len(message) < 1000


# --- names ------------------------------------------------------------------------


@pytest.mark.parametrize("given", NOT_NAMES)
def test_a_key_is_not_made_under_a_malformed_name(call: Callers, given: str) -> None:
    refused(
        call,
        Bad(
            lambda caller: create(caller, given),
            "MALFORMED_NAME",
            ("malformed key name", SHAPE),
        ),
    )


@pytest.mark.parametrize("what", NAMES)
def test_a_malformed_name_is_refused_with_its_pattern(call: Callers, what: str) -> None:
    refused(call, NAMES[what])


# --- types, sizes and settings ----------------------------------------------------


@pytest.mark.parametrize("what", SETTINGS)
def test_what_no_key_can_be_is_refused_with_what_it_can_be(
    call: Callers, what: str
) -> None:
    refused(call, SETTINGS[what])
    assert refusal(lambda: key(call(), "keys/never"))[0] is grpc.StatusCode.NOT_FOUND


def test_a_region_that_is_not_as_its_card_says_is_not_added(call: Callers) -> None:
    card = call.vault.north.card
    for fingerprint in ("", "00" * 32, card.fingerprint[:-1]):
        refused(
            call,
            Bad(
                add_region(card, fingerprint),
                "INVALID_REQUEST",
                ("fingerprint is not that of this card", "card.json"),
                who="admin",
            ),
        )


# --- algorithms, digests and ciphertexts ------------------------------------------


@pytest.mark.parametrize(
    ("name", "algorithm", "words"),
    [
        ("keys/ec", "", ("unknown algorithm ''", "ES256")),
        ("keys/ec", "none", ("unknown algorithm 'none'", "ES256")),
        ("keys/ec", "es256", ("unknown algorithm 'es256'", "ES256")),
        ("keys/ec", "ES384", ("does not sign with a key of type P-256", "use ES256")),
        ("keys/ec", "RS256", ("does not sign with a key of type P-256", "use ES256")),
        ("keys/ec", "A256GCM", ("A256GCM does not sign", "use ES256")),
        ("keys/rsa", "ES256", ("RSA-2048", "use RS256")),
        ("keys/aes", "RS256", ("oct-256", "use HS256")),
    ],
)
def test_an_algorithm_that_does_not_suit_is_refused_with_those_that_do(
    call: Callers, name: str, algorithm: str, words: tuple[str, ...]
) -> None:
    refused(
        call,
        Bad(
            lambda caller: sign(caller, name, algorithm),
            "ALGORITHM_UNSUPPORTED",
            words,
        ),
    )


@pytest.mark.parametrize("algorithm", ["RSA1_5", "A128GCM", "A256KW", "XTS"])
def test_an_algorithm_that_does_not_encrypt_is_refused(
    call: Callers, algorithm: str
) -> None:
    request = crypto.EncryptRequest(
        name="keys/aes", algorithm=algorithm, plaintext=b"x"
    )
    refused(
        call,
        Bad(
            lambda caller: caller.crypto.Encrypt(request, timeout=SECONDS),
            "ALGORITHM_UNSUPPORTED",
            ("A256GCM",),
        ),
    )


def test_an_algorithm_that_would_open_what_the_key_wrapped_is_refused(
    call: Callers,
) -> None:
    request = crypto.EncryptRequest(
        name="keys/aes", algorithm="A256CBC", plaintext=bytes(16)
    )
    refused(
        call,
        Bad(
            lambda caller: caller.crypto.Encrypt(request, timeout=SECONDS),
            "OPERATION_NOT_PERMITTED",
            ("encrypt and decrypt alone",),
        ),
    )


@pytest.mark.parametrize("length", [0, 1, 20, 31, 33, 48, 64, 1000])
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("keys/ec", "ES256"), ("keys/rsa", "RS256"), ("keys/rsa", "PS256")],
)
def test_a_digest_of_the_wrong_length_is_refused_with_the_right_one(
    call: Callers, name: str, algorithm: str, length: int
) -> None:
    digest = bytes(length)
    words = (f"{algorithm} signs a digest of 32 bytes, not {length}",)
    verify = crypto.VerifyRequest(
        name=name, algorithm=algorithm, digest=digest, signature=bytes(64)
    )
    asks: list[Ask] = [
        lambda caller: sign(caller, name, algorithm, digest),
        lambda caller: caller.crypto.Verify(verify, timeout=SECONDS),
    ]
    for ask in asks:
        refused(call, Bad(ask, "DIGEST_INVALID", words))


@pytest.mark.parametrize("part", ["ciphertext", "iv", "tag", "aad"])
def test_every_tampered_gcm_ciphertext_is_one_error(call: Callers, part: str) -> None:
    sealed = call().crypto.Encrypt(
        crypto.EncryptRequest(
            name="keys/aes",
            algorithm="A256GCM",
            plaintext=b"secret" * 3,
            additional_authenticated_data=b"about it",
        ),
        timeout=SECONDS,
    )
    whole: dict[str, Any] = {
        "ciphertext": sealed.ciphertext,
        "iv": sealed.iv,
        "tag": sealed.tag,
        "additional_authenticated_data": b"about it",
    }
    field = "additional_authenticated_data" if part == "aad" else part
    told = set()
    for changed in tampered(whole[field]).values():
        request = crypto.DecryptRequest(
            name=sealed.name, algorithm="A256GCM", **(whole | {field: changed})
        )
        told.add(refusal(partial(call().crypto.Decrypt, request, timeout=SECONDS)))

    assert len(told) == 1
    ((code, reason, message),) = told
    assert (code, reason) == (INVALID, "CIPHERTEXT_INVALID")
    assert sealed.name in message


@pytest.mark.parametrize(
    ("name", "algorithm"), [("keys/aes", "A256KW"), ("keys/rsa", "RSA-OAEP-256")]
)
def test_every_tampered_wrapped_key_is_one_error(
    call: Callers, name: str, algorithm: str
) -> None:
    made = call().crypto.GenerateDataKey(
        crypto.GenerateDataKeyRequest(name=name, algorithm=algorithm), timeout=SECONDS
    )
    told = set()
    for changed in tampered(made.wrapped).values():
        request = crypto.UnwrapKeyRequest(
            name=made.name, algorithm=algorithm, wrapped=changed
        )
        told.add(refusal(partial(call().crypto.UnwrapKey, request, timeout=SECONDS)))

    assert {(code, reason) for code, reason, _ in told} == {
        (INVALID, "CIPHERTEXT_INVALID")
    }
    assert len({message for _, _, message in told}) == 1


def test_a_tampered_signature_is_not_valid_and_no_error(call: Callers) -> None:
    signature = sign(call(), "keys/ec").signature
    for changed in tampered(signature).values():
        verified = call().crypto.Verify(
            crypto.VerifyRequest(
                name="keys/ec",
                algorithm="ES256",
                digest=bytes(32),
                signature=changed,
            ),
            timeout=SECONDS,
        )
        assert not verified.valid


# --- sizes of messages ------------------------------------------------------------


@pytest.mark.parametrize("what", LARGE)
def test_what_is_too_large_or_too_small_is_refused_with_the_limit(
    call: Callers, what: str
) -> None:
    refused(call, LARGE[what])


def test_what_is_as_large_as_may_be_is_taken(call: Callers) -> None:
    assert encrypt_many("keys/aes", "A256GCM", 65_536, aad=65_536)(call())
    assert encrypt_many("keys/rsa", "RSA-OAEP-256", 190)(call())


# --- callers ----------------------------------------------------------------------


def test_a_known_caller_without_a_role_is_refused_with_what_it_lacks(
    call: Callers,
) -> None:
    asks: dict[str, Ask] = {
        "keys/sign/action": lambda caller: sign(caller, "keys/ec"),
        "keys/read/action": lambda caller: key(caller, "keys/there-is-none"),
        "keys/create": lambda caller: create(caller, "never"),
        "regions/read/action": lambda caller: caller.regions.ListRegions(
            regions.ListRegionsRequest(), timeout=SECONDS
        ),
    }
    for permission, ask in asks.items():
        refused(
            call,
            Bad(
                ask,
                "ACCESS_DENIED",
                ("CN=nobody", permission, "hsmvault role assign"),
                grpc.StatusCode.PERMISSION_DENIED,
                who="nobody",
            ),
        )


def certified(ca: Path, *, starts: float, ends: float) -> Certified:
    """Certify CN=alice, whom the vault knows, from one second from now to another."""
    ca_key: Any = load_pem_private_key((ca / "ca.key").read_bytes(), None)
    issuer = x509.load_pem_x509_certificate((ca / "ca.pem").read_bytes()).subject
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]))
        .issuer_name(issuer)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(seconds=starts))
        .not_valid_after(now + datetime.timedelta(seconds=ends))
        .sign(ca_key, hashes.SHA256())
    )
    return Certified(
        certificate.public_bytes(Encoding.PEM),
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def shown_by(call: Callers, tmp_path: Path, kind: str) -> Certified:
    """What somebody shows whom the vault must not let in."""
    layout = call.vault.north.layout
    match kind:
        case "of another CA":
            return Authority.make(tmp_path / "other", name="other").caller("alice")
        case "expired":
            return certified(call.vault.ca, starts=-600, ends=-60)
        case "not yet valid":
            return certified(call.vault.ca, starts=600, ends=1200)
        case "a server's":
            return Certified(
                layout.server_certificate.read_bytes(), layout.server_key.read_bytes()
            )
        case _:
            return Certified(
                layout.private_certificate.read_bytes(), layout.private_key.read_bytes()
            )


SHOWN = ("of another CA", "expired", "not yet valid", "a server's", "a region's")


@pytest.mark.parametrize("kind", ["nothing", "no TLS", *SHOWN])
def test_whom_the_ca_did_not_certify_for_now_gets_no_connection(
    call: Callers, tmp_path: Path, kind: str
) -> None:
    ca = call.vault.admin.ca.read_bytes()
    for endpoint in (call.vault.north.endpoint, *call.vault.north.partition_endpoints):
        if kind == "no TLS":
            channel = grpc.insecure_channel(endpoint)
        elif kind == "nothing":
            channel = grpc.secure_channel(endpoint, grpc.ssl_channel_credentials(ca))
        else:
            shown = shown_by(call, tmp_path / endpoint.rpartition(":")[2], kind)
            channel = grpc.secure_channel(
                endpoint,
                grpc.ssl_channel_credentials(ca, shown.key, shown.certificate),
            )
        with channel:
            asks: tuple[Ask, ...] = (
                lambda caller: sign(caller, "keys/ec", seconds=10),
                lambda caller: caller.regions.GetTopology(
                    regions.GetTopologyRequest(), timeout=10
                ),
                raw("/grpc.health.v1.Health/Check", b"", seconds=10),
            )
            for ask in asks:
                told = refusal(partial(ask, Caller(channel)))
                assert told[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("of another CA", "did not accept each other's certificates.* caller add"),
        ("expired", "certificate expired on .*hsmvault caller add"),
        ("not yet valid", "valid only from .*is the clock right"),
    ],
)
def test_our_client_says_what_is_wrong_with_a_certificate(
    call: Callers, tmp_path: Path, kind: str, words: str
) -> None:
    shown = shown_by(call, tmp_path, kind)

    with pytest.raises(CertificateRefused, match=words):
        hsmvault.connect(
            call.vault.north.endpoint,
            certificate=shown.certificate,
            key=shown.key,
            ca=call.vault.admin.ca,
            timeout=5,
        )
